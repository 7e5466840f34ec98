//! Sources and settings → a directory of prepared data.
//!
//! `OUTPUT/ID.partial/` holds `work/` (parts, fates, what is said of shards) and `data/` (the
//! shards); when `data/` is whole it becomes `OUTPUT/ID/`. A run that is killed goes on with what
//! is whole in them.

use std::fs;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};

use hearth_crds::preparation::{DataCard, PrepareConfig};
use hearth_crds::worker_config::DataFile;

use crate::bad_rows::BadRows;
use crate::card::{SAMPLES, card, markdown, tell_shape};
use crate::error::PrepareError;
use crate::files::{Lock, read_json, remove_directory, sync_directory, write_json, write_whole};
use crate::identity::{hash_sources, hash_synonyms, name, told_recipe};
use crate::join::{self, Joins};
use crate::manifest::{FORMAT_VERSION, FileEntry, MANIFEST, Manifest};
use crate::progress::{Counter, Progress, Stage, Update};
use crate::rows::Recipe;
use crate::shape::{Learning, Shaping};
use crate::source::{Bounds, Scan, Source};
use crate::stage::{
    Cleaned, Cleaning, Copies, Fate, Fates, Reading, Rows, Writing, Written, decide,
};
use crate::table::rules::{TABLE, TableRules};

/// How a preparation is carried out. None but the last two has a part in the result's bytes.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// Threads that decode, clean and write.
    pub threads: NonZeroUsize,
    /// Bytes of memory for sorting hashes.
    pub sort_bytes: usize,
    /// Bytes of input that are done whole: what a run that is killed does again at most.
    pub part_bytes: u64,
    /// Bytes of input that a thread takes at a time. Decides on the shards' pages, too.
    pub chunk_bytes: usize,
    /// Bytes of a shard's rows in memory, about.
    pub shard_bytes: u64,
}

impl Default for Settings {
    /// Threads as many as cores, which `HEARTH_CPUS` may say, a control group's limit heeded.
    fn default() -> Self {
        let told = std::env::var("HEARTH_CPUS").ok().and_then(|told| told.trim().parse().ok());
        let all = || std::thread::available_parallelism().unwrap_or(NonZeroUsize::MIN);
        Self {
            threads: told.unwrap_or_else(all),
            sort_bytes: 64 << 20,
            part_bytes: 32 << 20,
            chunk_bytes: 512 << 10,
            shard_bytes: 128 << 20,
        }
    }
}

/// Prepared data.
#[derive(Clone, Debug, PartialEq)]
pub struct Prepared {
    /// Their directory.
    pub directory: PathBuf,
    /// What is told of them.
    pub card: DataCard,
    /// Whether they were there already.
    pub known: bool,
}

/// Prepares data as `config` says, or finds them prepared.
pub fn run(config: &PrepareConfig, progress: &mut dyn Progress) -> Result<Prepared, PrepareError> {
    run_with(config, &Settings::default(), progress)
}

/// As [`run`], with other threads and bounds.
pub fn run_with(
    config: &PrepareConfig,
    settings: &Settings,
    progress: &mut dyn Progress,
) -> Result<Prepared, PrepareError> {
    let recipe = Recipe::new(config)?;
    let open = |data: &DataFile| Source::open(data, recipe.touched.clone());
    let train = open(&config.train)?;
    let eval = config.eval.as_ref().map(open).transpose()?;
    let features = join::sources(config)?;
    let mut sources = hash_sources((&train, eval.as_ref(), &features), progress)?;
    sources.extend(hash_synonyms(config)?);
    let told = told_recipe(config)?;
    let id = name(&told, &sources)?;

    fs::create_dir_all(&config.output)
        .map_err(|error| PrepareError::writing(&config.output, error))?;
    let job = Job {
        config,
        settings,
        recipe,
        train,
        eval,
        features,
        place: Place::new(&config.output, &id),
        card: DataCard {
            format_version: FORMAT_VERSION,
            id,
            sources,
            seed: config.preparation.seed,
            recipe: told,
            ..DataCard::default()
        },
    };
    job.run(progress)
}

/// Where a result is made, and where it is in the end.
struct Place {
    lock: PathBuf,
    partial: PathBuf,
    work: PathBuf,
    data: PathBuf,
    done: PathBuf,
}

impl Place {
    fn new(output: &Path, id: &str) -> Self {
        let partial = output.join(format!("{id}.partial"));
        Self {
            lock: output.join(format!(".{id}.lock")),
            work: partial.join("work"),
            data: partial.join("data"),
            partial,
            done: output.join(id),
        }
    }

    /// The result, where it is there and whole.
    fn known(&self, id: &str) -> Option<Prepared> {
        Manifest::verified(&self.done, id)?;
        let card = read_json(&self.done.join("card.json"))?;
        Some(Prepared { directory: self.done.clone(), card, known: true })
    }
}

struct Job<'a> {
    config: &'a PrepareConfig,
    settings: &'a Settings,
    recipe: Recipe,
    train: Source,
    eval: Option<Source>,
    /// What joins their rows.
    features: Vec<Source>,
    place: Place,
    /// What is told before rows are read.
    card: DataCard,
}

impl Job<'_> {
    fn run(self, progress: &mut dyn Progress) -> Result<Prepared, PrepareError> {
        let Place { lock, partial, data, done, .. } = &self.place;
        let writing = |path: &Path| {
            let path = path.to_owned();
            move |error| PrepareError::writing(&path, error)
        };
        let _lock = Lock::wait(lock).map_err(writing(lock))?;
        if let Some(known) = self.place.known(&self.card.id) {
            remove_directory(partial).map_err(writing(partial))?;
            return Ok(known);
        }
        if Manifest::verified(data, &self.card.id).is_none() {
            self.make(progress)?;
        }
        if done.exists() {
            tracing::warn!(path = %done.display(), "prepared data are damaged; they are made again");
            remove_directory(done).map_err(writing(done))?;
        }
        let published = fs::rename(data, done)
            .and_then(|()| sync_directory(&self.config.output))
            .and_then(|()| remove_directory(partial));
        published.map_err(writing(done))?;
        let prepared =
            self.place.known(&self.card.id).map(|known| Prepared { known: false, ..known });
        prepared.ok_or_else(|| {
            let detail = "it does not read back as it was written; look at the volume";
            PrepareError::damaged(done, 0, detail)
        })
    }

    /// Makes the partial directory's `data` whole.
    fn make(&self, progress: &mut dyn Progress) -> Result<(), PrepareError> {
        let Place { work, data, .. } = &self.place;
        for directory in [work, data] {
            fs::create_dir_all(directory)
                .map_err(|error| PrepareError::writing(directory, error))?;
        }
        let (joins, scans) = self.scan(progress)?;
        let mut bad = BadRows::new(self.config.max_bad_rows);
        let cleaned = self.clean((&joins, &scans), &mut bad, progress)?;
        drop(joins);
        let Some(train) = cleaned.first() else {
            return Err(PrepareError::internal("no training rows"));
        };
        let rows = Rows {
            train,
            eval: cleaned.get(1),
            scratch: &work.join("sort"),
            memory: self.settings.sort_bytes,
        };
        let counter = &mut Counter::new(progress, Stage::Compare, rows.steps());
        let fates = decide(self.config, &self.recipe, rows, counter)?;
        let reading = Reading { rows, fates: &fates, work };
        let learning = Learning {
            config: self.config,
            recipe: &self.recipe,
            reading,
            schema: &train.schema,
            work,
        };
        let shaping = Shaping::new(&learning)?;
        let copies = Copies::new(self.config);
        let writing = Writing {
            rows,
            fates: &fates,
            touched: &self.recipe.touched,
            shape: &shaping,
            copies: copies.as_ref(),
            shard_bytes: self.settings.shard_bytes,
            threads: self.settings.threads,
            out: data,
            work,
        };
        let plan = writing.plan()?;
        let counter = &mut Counter::new(progress, Stage::Write, plan.iter().map(|s| s.bytes).sum());
        let written = writing.run(&plan, counter)?;
        refuse_all_outliers(&fates, &written)?;
        let told = self.tell(&cleaned, &bad, &fates, (&written, shaping.rules()));
        progress.update(&Update { stage: Stage::Finish, rows: 0, bytes: 0, total: 0 });
        self.finish(&told, shaping.rules(), written)
    }

    /// The features that join the rows of the sources, and what those hold.
    fn scan(&self, progress: &mut dyn Progress) -> Result<(Joins, Vec<Scan>), PrepareError> {
        let mut bad = BadRows::new(self.config.max_bad_rows);
        let features: u64 = self.features.iter().map(Source::bytes).sum();
        let counter = &mut Counter::new(progress, Stage::Scan, self.bytes() + features);
        let joins = Joins::load(self.config, &self.features, self.bounds(), counter)?;
        let scans = self
            .sources()
            .map(|source| source.format().scan(source, self.bounds(), &mut bad, counter))
            .collect::<Result<Vec<Scan>, _>>()?;
        for (source, scan) in self.sources().zip(&scans) {
            source.check(&scan.schema)?;
        }
        self.same_columns(&joins, &scans)?;
        Ok((joins, scans))
    }

    /// Cleans the rows of the sources.
    fn clean(
        &self,
        (joins, scans): (&Joins, &[Scan]),
        bad: &mut BadRows,
        progress: &mut dyn Progress,
    ) -> Result<Vec<Cleaned>, PrepareError> {
        let counter = &mut Counter::new(progress, Stage::Clean, self.bytes());
        let mut cleaned = Vec::new();
        for ((source, scan), name) in self.sources().zip(scans).zip(["train", "eval"]) {
            let directory = self.place.work.join(name);
            fs::create_dir_all(&directory)
                .map_err(|error| PrepareError::writing(&directory, error))?;
            let cleaning = Cleaning {
                source,
                scan,
                joins,
                recipe: &self.recipe,
                bounds: self.bounds(),
                directory: &directory,
            };
            let made = cleaning.run(bad, counter)?;
            refuse_empty(source, &made)?;
            cleaned.push(made);
        }
        Ok(cleaned)
    }

    /// Refuses columns that are of one type in the training rows and of another in those for
    /// evaluation: what is learned of the ones is done to the others.
    fn same_columns(&self, joins: &Joins, scans: &[Scan]) -> Result<(), PrepareError> {
        let columns = &self.recipe.columns;
        let mut found = Vec::new();
        for (source, scan) in self.sources().zip(scans) {
            let path = &source.data.path;
            let schema = joins.schema(&scan.schema, path)?;
            found.push(columns.resolved(&*columns.schema(&schema, path)?)?);
        }
        let [train, eval] = &found[..] else { return Ok(()) };
        let differs = train.iter().find(|(name, column)| eval[*name].type_ != column.type_);
        differs.map_or(Ok(()), |(name, _)| {
            Err(PrepareError::Setting {
                setting: format!("data.preparation.table.columns.{name}.type"),
                detail: "rows for training and for evaluation hold different ones; write it".into(),
            })
        })
    }

    fn sources(&self) -> impl Iterator<Item = &Source> {
        [&self.train].into_iter().chain(&self.eval)
    }

    fn bytes(&self) -> u64 {
        self.sources().map(Source::bytes).sum()
    }

    fn bounds(&self) -> Bounds {
        let Settings { threads, part_bytes, chunk_bytes, .. } = *self.settings;
        Bounds { threads, part_bytes, chunk_bytes }
    }

    fn tell(
        &self,
        cleaned: &[Cleaned],
        bad: &BadRows,
        fates: &Fates,
        (made, rules): (&Written, &TableRules),
    ) -> DataCard {
        let DataCard { format_version, id, sources, seed, recipe, .. } = self.card.clone();
        let cleaned: Vec<&Cleaned> = cleaned.iter().collect();
        let mut told = card(&cleaned, bad, fates, made);
        tell_shape(&mut told, &made.shaped, rules);
        for row in &mut told.malformed_rows {
            if let Some(origin) = self.sources().find_map(|source| source.origin(&row.file)) {
                row.file = origin;
            }
        }
        DataCard { format_version, id, sources, seed, recipe, ..told }
    }

    /// Writes the card and what belongs to it, and the manifest last.
    fn finish(
        &self,
        card: &DataCard,
        rules: &TableRules,
        written: Written,
    ) -> Result<(), PrepareError> {
        let data = &self.place.data;
        let text = markdown(card);
        let mut files = written.files;
        let finished = (|| {
            write_json(&data.join("card.json"), card)?;
            write_whole(&data.join("card.md"), |out| {
                std::io::Write::write_all(out, text.as_bytes())
            })?;
            let mut names = vec!["card.json", "card.md"];
            if *rules != TableRules::default() {
                write_json(&data.join(TABLE), rules)?;
                names.push(TABLE);
            }
            if !written.shaped.samples.is_empty() {
                write_json(&data.join(SAMPLES), &written.shaped.samples)?;
                names.push(SAMPLES);
            }
            for name in names {
                files.push(FileEntry::of(data, name)?);
            }
            let id = card.id.clone();
            Manifest { format_version: FORMAT_VERSION, id, files }.write(data)
        })();
        finished.map_err(|error| PrepareError::writing(&data.join(MANIFEST), error))
    }
}

/// Refuses data of which the last rows of a side went as outliers.
fn refuse_all_outliers(fates: &Fates, made: &Written) -> Result<(), PrepareError> {
    let sides = [("training", Fate::Train, &made.train), ("evaluation", Fate::Eval, &made.eval)];
    let gone = sides.into_iter().find(|(_, fate, of)| of.rows == 0 && fates.count(*fate) > 0);
    gone.map_or(Ok(()), |(name, ..)| {
        Err(PrepareError::Setting {
            setting: "data.preparation.table.columns".to_owned(),
            detail: format!("all rows for {name} hold outliers that are dropped; use action: Clip"),
        })
    })
}

fn refuse_empty(source: &Source, made: &Cleaned) -> Result<(), PrepareError> {
    if made.kept() > 0 {
        return Ok(());
    }
    let mut reasons = std::collections::BTreeMap::<&str, u64>::new();
    for (_, report) in &made.parts {
        *reasons.entry("malformed").or_default() += report.bad;
        for (reason, count) in &report.dropped {
            *reasons.entry(reason).or_default() += count;
        }
    }
    let reasons: Vec<String> = reasons
        .iter()
        .filter(|(_, count)| **count > 0)
        .map(|(reason, count)| format!("{count} {reason}"))
        .collect();
    let setting = if source.touched.image().is_some() { "images" } else { "filter" };
    let detail = match (made.rows(), reasons.join(", ")) {
        (0, _) => "there are no rows in it; name another".to_owned(),
        (rows, reasons) => {
            format!("of {rows} row(s) {reasons}; look at data.preparation.{setting}")
        }
    };
    Err(PrepareError::Empty { path: source.data.path.clone(), detail })
}
