//! Sources and settings → a directory of prepared data.
//!
//! `OUTPUT/ID.partial/` holds `work/` (parts, fates, what is said of shards) and `data/` (the
//! shards); when `data/` is whole it becomes `OUTPUT/ID/`. A run that is killed goes on with what
//! is whole in them.

use std::fs;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};

use hearth_crds::preparation::{DataCard, PrepareConfig, SourceCard};
use hearth_crds::worker_config::DataFile;
use serde_json::Value;

use crate::bad_rows::BadRows;
use crate::card::{card, markdown};
use crate::error::PrepareError;
use crate::files::{Lock, read_json, remove_directory, sync_directory, write_json, write_whole};
use crate::manifest::{FORMAT_VERSION, FileEntry, MANIFEST, Manifest};
use crate::progress::{Counter, Progress, Stage, Update};
use crate::rows::Recipe;
use crate::source::{Bounds, Content, Scan, Source};
use crate::stage::{AsTheyAre, Cleaned, Cleaning, Copies, Fates, Rows, Writing, Written, decide};

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
    let sources = hash_sources(&train, eval.as_ref(), progress)?;
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
        let total = self.train.bytes() + self.eval.as_ref().map_or(0, Source::bytes);
        let mut bad = BadRows::new(self.config.max_bad_rows);
        let counter = &mut Counter::new(progress, Stage::Scan, total);
        let scans: Vec<Scan> = self
            .sources()
            .map(|source| source.format().scan(source, self.bounds(), &mut bad, counter))
            .collect::<Result<_, _>>()?;

        for (source, scan) in self.sources().zip(&scans) {
            source.check(&scan.schema)?;
        }

        let mut bad = BadRows::new(self.config.max_bad_rows);
        let counter = &mut Counter::new(progress, Stage::Clean, total);
        let mut cleaned = Vec::new();
        for ((source, scan), name) in self.sources().zip(&scans).zip(["train", "eval"]) {
            let directory = work.join(name);
            fs::create_dir_all(&directory)
                .map_err(|error| PrepareError::writing(&directory, error))?;
            let cleaning = Cleaning {
                source,
                scan,
                recipe: &self.recipe,
                bounds: self.bounds(),
                directory: &directory,
            };
            let made = cleaning.run(&mut bad, counter)?;
            refuse_empty(source, &made)?;
            cleaned.push(made);
        }

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
        let copies = Copies::new(self.config);
        let writing = Writing {
            rows,
            fates: &fates,
            touched: &self.recipe.touched,
            shape: &AsTheyAre,
            copies: copies.as_ref(),
            shard_bytes: self.settings.shard_bytes,
            threads: self.settings.threads,
            out: data,
            work,
        };
        let plan = writing.plan()?;
        let counter = &mut Counter::new(progress, Stage::Write, plan.iter().map(|s| s.bytes).sum());
        let written = writing.run(&plan, counter)?;
        let told = self.tell(&cleaned, &bad, &fates, &written);
        progress.update(&Update { stage: Stage::Finish, rows: 0, bytes: 0, total: 0 });
        self.finish(&told, written)
    }

    fn sources(&self) -> impl Iterator<Item = &Source> {
        [&self.train].into_iter().chain(&self.eval)
    }

    fn bounds(&self) -> Bounds {
        let Settings { threads, part_bytes, chunk_bytes, .. } = *self.settings;
        Bounds { threads, part_bytes, chunk_bytes }
    }

    fn tell(&self, cleaned: &[Cleaned], bad: &BadRows, fates: &Fates, made: &Written) -> DataCard {
        let DataCard { format_version, id, sources, seed, recipe, .. } = self.card.clone();
        let cleaned: Vec<&Cleaned> = cleaned.iter().collect();
        let told = card(&cleaned, bad, fates, made);
        DataCard { format_version, id, sources, seed, recipe, ..told }
    }

    /// Writes the card, and the manifest last.
    fn finish(&self, card: &DataCard, written: Written) -> Result<(), PrepareError> {
        let data = &self.place.data;
        let text = markdown(card);
        let mut files = written.files;
        let finished = (|| {
            write_json(&data.join("card.json"), card)?;
            write_whole(&data.join("card.md"), |out| {
                std::io::Write::write_all(out, text.as_bytes())
            })?;
            for name in ["card.json", "card.md"] {
                files.push(FileEntry::of(data, name)?);
            }
            let id = card.id.clone();
            Manifest { format_version: FORMAT_VERSION, id, files }.write(data)
        })();
        finished.map_err(|error| PrepareError::writing(&data.join(MANIFEST), error))
    }
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

/// Size and hash of every file.
fn hash_sources(
    train: &Source,
    eval: Option<&Source>,
    progress: &mut dyn Progress,
) -> Result<Vec<SourceCard>, PrepareError> {
    let total = train.bytes() + eval.map_or(0, Source::bytes);
    let mut counter = Counter::new(progress, Stage::Hash, total);
    let mut told = Vec::new();
    for (role, source) in [("train", Some(train)), ("eval", eval)] {
        let Some(source) = source else { continue };
        for Content { name, bytes, blake3 } in source.hash(&mut |bytes| counter.add(0, bytes))? {
            let (role, uri) = (role.to_owned(), source.data.uri.clone());
            told.push(SourceCard { role, uri, name, bytes, blake3 });
        }
    }
    Ok(told)
}

/// All settings that decide on the result: not for whom it is, nor where things are.
fn told_recipe(config: &PrepareConfig) -> Result<Value, PrepareError> {
    let mut recipe = serde_json::to_value(config).map_err(PrepareError::internal)?;
    let mut forget = |pointer: &str, names: &[&str]| {
        if let Some(Value::Object(fields)) = recipe.pointer_mut(pointer) {
            for name in names {
                fields.shift_remove(*name);
            }
        }
    };
    forget("", &["version", "job", "output", "outputUri"]);
    forget("/preparation", &["output", "resources"]);
    forget("/train", &["path", "uri"]);
    forget("/eval", &["path", "uri"]);
    Ok(recipe)
}

/// Name of the result.
fn name(recipe: &Value, sources: &[SourceCard]) -> Result<String, PrepareError> {
    let sources: Vec<_> = sources
        .iter()
        .map(|source| (&source.role, &source.name, source.bytes, &source.blake3))
        .collect();
    let text =
        serde_json::to_vec(&(FORMAT_VERSION, recipe, sources)).map_err(PrepareError::internal)?;
    let hash = blake3::hash(&text).to_hex();
    Ok(hash.get(..16).unwrap_or(&hash).to_owned())
}
