//! Files of every format → sequences for every objective, through the cache.

use std::fs;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use hearth_crds::preparation::Cleaning;
use hearth_worker::data::dataset::{ReadOptions, SequenceFiles, load_sequences};
use hearth_worker::data::encode::EncoderOptions;
use hearth_worker::data::{
    Columns, DataError, Fetched, Format, LossOn, Objective, Samples, SequenceEncoder, SourceFile,
    TrainingSet,
};
use parquet::basic::{Compression, LogicalType, Repetition, Type as Physical, ZstdLevel};
use parquet::data_type::{ByteArray, ByteArrayType};
use parquet::file::metadata::ParquetMetaDataReader;
use parquet::file::properties::WriterProperties;
use parquet::file::writer::SerializedFileWriter;
use parquet::schema::types::{GroupTypeBuilder, Type, TypePtr};
use serde_json::{Value, json};

/// Ids of the tokenizer's words.
const END: u32 = 1;
const USER: u32 = 2;
const ASSISTANT: u32 = 3;
const WORDS: [&str; 8] = ["a", "b", "c", "d", "e", "f", "g", "h"];

/// A directory with a tokenizer of a token a word.
struct Home {
    root: tempfile::TempDir,
}

impl Home {
    fn new() -> Self {
        let home = Self { root: tempfile::tempdir().unwrap() };
        let words = ["<unk>", "<end>", "<user>", "<assistant>"].iter().chain(&WORDS);
        let vocabulary: serde_json::Map<String, Value> =
            words.enumerate().map(|(id, word)| ((*word).to_owned(), json!(id))).collect();
        let special = |id: u32, content: &str| {
            json!({"id": id, "content": content, "single_word": false, "lstrip": false,
                   "rstrip": false, "normalized": false, "special": true})
        };
        let tokenizer = json!({
            "version": "1.0", "truncation": null, "padding": null, "normalizer": null,
            "added_tokens": [special(1, "<end>"), special(2, "<user>"), special(3, "<assistant>")],
            "pre_tokenizer": {"type": "WhitespaceSplit"}, "post_processor": null, "decoder": null,
            "model": {"type": "WordLevel", "unk_token": "<unk>", "vocab": vocabulary}
        });
        home.write("tokenizer.json", &tokenizer.to_string());
        let template = "{% for m in messages %}{% if m.role == 'system' %}{{ raise_exception('no system here') }}{% endif %}<{{ m.role }}> {{ m.content }}{% if m.role == 'assistant' %}<end>{% endif %}{% endfor %}{% if add_generation_prompt %}<assistant>{% endif %}";
        let config = json!({"eos_token": "<end>", "chat_template": template});
        home.write("tokenizer_config.json", &config.to_string());
        home
    }

    fn path(&self, name: &str) -> PathBuf {
        self.root.path().join(name)
    }

    fn write(&self, name: &str, text: &str) -> PathBuf {
        fs::write(self.path(name), text).unwrap();
        self.path(name)
    }

    fn rows(&self, name: &str, rows: &[Value]) -> PathBuf {
        let lines: Vec<String> = rows.iter().map(Value::to_string).collect();
        self.write(name, &(lines.join("\n") + "\n"))
    }

    fn load(&self, objective: Objective, source: SourceFile) -> Result<TrainingSet, DataError> {
        self.load_with(objective, source, 0, 2)
    }

    fn load_with(
        &self,
        objective: Objective,
        source: SourceFile,
        max_bad_rows: u64,
        threads: usize,
    ) -> Result<TrainingSet, DataError> {
        let now = jiff::civil::date(2026, 7, 4).at(0, 0, 0, 0);
        let options =
            EncoderOptions { objective, cleaning: Cleaning::default(), max_length: 6, now };
        let encoder = SequenceEncoder::load(self.root.path(), options)?;
        let files = SequenceFiles { train: source, eval: None, eval_split: None, max_bad_rows };
        let options = ReadOptions {
            encoder: &encoder,
            cache: &self.path("cache"),
            threads: NonZeroUsize::new(threads).unwrap(),
            seed: 1,
        };
        load_sequences(&files, &options)
    }
}

fn source(path: PathBuf, columns: Columns) -> SourceFile {
    SourceFile { format: Format::of(&path), path, columns }
}

fn text_column() -> Columns {
    Columns::Text { text: "text".into() }
}

fn messages_column() -> Columns {
    Columns::Messages { messages: "messages".into() }
}

/// Ids of each sequence, and those of its tokens that are to be predicted.
fn read(samples: &Samples) -> Vec<(Vec<u32>, Vec<u32>)> {
    let mut fetched = Fetched::default();
    let all: Vec<u32> = (0..samples.len()).collect();
    samples.fetch(&all, &mut fetched).unwrap();
    fetched
        .sequences()
        .map(|sequence| {
            let targets = sequence.target_positions().map(|at| sequence.ids[at]).collect();
            (sequence.ids.to_vec(), targets)
        })
        .collect()
}

fn id(word: &str) -> u32 {
    4 + u32::try_from(WORDS.iter().position(|known| *known == word).unwrap()).unwrap()
}

fn ids(words: &str) -> Vec<u32> {
    words.split(' ').map(id).collect()
}

/// A Parquet file of texts, a few to a row group.
fn write_parquet(path: &Path, texts: &[&str], compression: Compression) {
    let text = Type::primitive_type_builder("text", Physical::BYTE_ARRAY)
        .with_logical_type(Some(LogicalType::String))
        .with_repetition(Repetition::OPTIONAL)
        .build()
        .unwrap();
    let other = Type::primitive_type_builder("other", Physical::BYTE_ARRAY)
        .with_repetition(Repetition::REQUIRED)
        .build()
        .unwrap();
    let schema: TypePtr = Arc::new(
        Type::group_type_builder("schema")
            .with_fields(vec![Arc::new(other), Arc::new(text)])
            .build()
            .unwrap(),
    );
    let properties = WriterProperties::builder().set_compression(compression).build();
    let file = fs::File::create(path).unwrap();
    let mut writer = SerializedFileWriter::new(file, schema, Arc::new(properties)).unwrap();
    for part in texts.chunks(2) {
        let values: Vec<ByteArray> = part.iter().map(|text| ByteArray::from(*text)).collect();
        let present = vec![1; part.len()];
        let mut group = writer.next_row_group().unwrap();
        for levels in [None, Some(present.as_slice())] {
            let mut column = group.next_column().unwrap().unwrap();
            column.typed::<ByteArrayType>().write_batch(&values, levels, None).unwrap();
            column.close().unwrap();
        }
        group.close().unwrap();
    }
    writer.close().unwrap();
}

fn group_type(name: &str, repetition: Repetition, fields: Vec<TypePtr>) -> GroupTypeBuilder<'_> {
    Type::group_type_builder(name).with_repetition(repetition).with_fields(fields)
}

/// A Parquet file of conversations: `messages: list<struct<role, content>>`.
fn write_parquet_chats(path: &Path, chats: &[Vec<(&str, &str)>]) {
    let leaf = |name: &str| {
        let leaf = Type::primitive_type_builder(name, Physical::BYTE_ARRAY)
            .with_logical_type(Some(LogicalType::String))
            .with_repetition(Repetition::OPTIONAL);
        Arc::new(leaf.build().unwrap())
    };
    let element = group_type("element", Repetition::OPTIONAL, vec![leaf("role"), leaf("content")]);
    let list = group_type("list", Repetition::REPEATED, vec![Arc::new(element.build().unwrap())]);
    let messages =
        group_type("messages", Repetition::OPTIONAL, vec![Arc::new(list.build().unwrap())])
            .with_logical_type(Some(LogicalType::List))
            .build()
            .unwrap();
    let schema =
        Type::group_type_builder("schema").with_fields(vec![Arc::new(messages)]).build().unwrap();
    let properties = Arc::new(WriterProperties::builder().build());
    let file = fs::File::create(path).unwrap();
    let mut writer = SerializedFileWriter::new(file, Arc::new(schema), properties).unwrap();
    let mut group = writer.next_row_group().unwrap();
    for part in 0..2 {
        let all: Vec<ByteArray> = chats
            .iter()
            .flatten()
            .map(|(role, content)| ByteArray::from(if part == 0 { *role } else { *content }))
            .collect();
        let repeated: Vec<i16> =
            chats.iter().flat_map(|chat| (0..chat.len()).map(|at| i16::from(at > 0))).collect();
        let mut column = group.next_column().unwrap().unwrap();
        let present = vec![4; all.len()];
        column.typed::<ByteArrayType>().write_batch(&all, Some(&present), Some(&repeated)).unwrap();
        column.close().unwrap();
    }
    group.close().unwrap();
    writer.close().unwrap();
}

#[test]
fn texts_of_every_format_give_the_same_sequences_and_long_ones_are_cut_into_several() {
    let home = Home::new();
    let texts = ["a b c", "d", "a b c d e f g h a b c d e", "h g"];
    let rows: Vec<Value> = texts.iter().map(|text| json!({"text": text, "more": [1]})).collect();
    let mut files = vec![home.rows("x.jsonl", &rows), home.write("x.txt", &texts.join("\n"))];
    for (name, compression) in [
        ("plain", Compression::UNCOMPRESSED),
        ("snappy", Compression::SNAPPY),
        ("zstd", Compression::ZSTD(ZstdLevel::default())),
        ("lz4", Compression::LZ4_RAW),
    ] {
        let path = home.path(&format!("{name}.parquet"));
        write_parquet(&path, &texts, compression);
        files.push(path);
    }
    // Every token but the first is learned; 14 tokens are 6, 6 and 2.
    let want = [
        [ids("a b c"), vec![END]].concat(),
        [ids("d"), vec![END]].concat(),
        ids("a b c d e f"),
        ids("g h a b c d"),
        [ids("e"), vec![END]].concat(),
        [ids("h g"), vec![END]].concat(),
    ];
    for path in files {
        let name = path.display().to_string();
        let data = home.load(Objective::Pretraining, source(path, text_column())).unwrap();
        let got = read(&data.train);
        assert_eq!(got.iter().map(|(ids, _)| ids.clone()).collect::<Vec<_>>(), want, "{name}");
        for (index, (ids, targets)) in (0u32..).zip(&got) {
            assert_eq!(targets, &ids[1..]);
            assert_eq!(data.train.length(index), ids.len());
            assert_eq!(data.train.target_tokens(index), targets.len());
        }
    }
}

#[test]
fn of_a_conversation_the_assistant_is_learned_from_jsonl_and_from_parquet() {
    let home = Home::new();
    let chats =
        [vec![("user", "a"), ("assistant", "b c")], vec![("user", "d"), ("assistant", "e f g h")]];
    let rows: Vec<Value> = chats
        .iter()
        .map(|chat| {
            let messages: Vec<Value> = chat
                .iter()
                .map(|(role, content)| json!({"role": role, "content": content}))
                .collect();
            json!({"messages": messages})
        })
        .collect();
    let jsonl = home.rows("x.jsonl", &rows);
    let parquet = home.path("x.parquet");
    write_parquet_chats(&parquet, &chats);
    for path in [jsonl, parquet] {
        let name = path.display().to_string();
        let of = |loss| {
            let file = source(path.clone(), messages_column());
            read(&home.load(Objective::FineTuning(loss), file).unwrap().train)
        };
        let first = [vec![USER, id("a"), ASSISTANT], ids("b c"), vec![END]].concat();
        // Cut after 6 tokens.
        let second = [vec![USER, id("d"), ASSISTANT], ids("e f g")].concat();
        assert_eq!(
            of(LossOn::Assistant),
            [(first.clone(), [ids("b c"), vec![END]].concat()), (second.clone(), ids("e f g"))],
            "{name}"
        );
        assert_eq!(
            of(LossOn::All),
            [(first.clone(), first[1..].to_vec()), (second.clone(), second[1..].to_vec())],
            "{name}"
        );
    }
}

#[test]
fn completions_and_preferences_learn_what_follows_the_prompt() {
    let home = Home::new();
    let columns = Columns::Completion { prompt: "prompt".into(), completion: "completion".into() };
    let path = home.rows("c.jsonl", &[json!({"prompt": "a b", "completion": " c"})]);
    let data = home.load(Objective::FineTuning(LossOn::Completion), source(path, columns)).unwrap();
    let (c, end) = (id("c"), END);
    assert_eq!(read(&data.train), [([ids("a b c"), vec![end]].concat(), vec![c, end])]);

    let message = |role: &str, content: &str| json!([{"role": role, "content": content}]);
    let row = json!({"prompt": message("user", "a"), "chosen": message("assistant", "b"),
                     "rejected": message("assistant", "c d")});
    let path = home.rows("p.jsonl", &[row]);
    let columns = Columns::Preference {
        prompt: Some("prompt".into()),
        chosen: "chosen".into(),
        rejected: "rejected".into(),
    };
    let data = home.load(Objective::Preference, source(path, columns)).unwrap();
    assert_eq!((data.train.len(), data.train.per_sample()), (1, 2));
    let asked = vec![USER, id("a"), ASSISTANT];
    let chosen = vec![id("b"), END];
    let rejected = vec![id("c"), id("d"), END];
    assert_eq!(
        read(&data.train),
        [
            ([asked.clone(), chosen.clone()].concat(), chosen),
            ([asked, rejected.clone()].concat(), rejected)
        ]
    );
    assert_eq!((data.train.length(0), data.train.target_tokens(0)), (11, 5));
}

#[test]
fn malformed_rows_are_named_and_refused_past_the_permitted_number() {
    let home = Home::new();
    let message = |role: &str, content: &str| json!({"role": role, "content": content});
    let good = json!({"messages": [message("user", "a"), message("assistant", "b")]});
    let system = json!({"messages": [message("system", "a"), message("assistant", "b")]});
    let long = json!({"messages": [message("user", "a b c d e f g"), message("assistant", "b")]});
    let path = home.rows("x.jsonl", &[good.clone(), system, json!({"text": "a"}), long, good]);
    let objective = Objective::FineTuning(LossOn::Assistant);
    let load = |max| home.load_with(objective, source(path.clone(), messages_column()), max, 2);
    let error = load(2).unwrap_err().to_string();
    assert!(error.contains("x.jsonl:2: the chat template stops"), "{error}");
    assert!(error.contains("no system here") && error.contains("3 malformed row(s)"), "{error}");
    let data = load(3).unwrap();
    assert_eq!(data.train.len(), 2);
    let lines: Vec<u64> = data.skipped.iter().map(|(_, row)| row.line).collect();
    assert_eq!(lines, [2, 3, 4]);
    assert!(data.skipped[2].1.reason.contains("training.maxLength"), "{:?}", data.skipped[2]);
    // What the cache holds is not permitted to a stricter reader.
    assert!(matches!(load(2), Err(DataError::BadRows { bad: 3, max: 2, .. })));
}

#[test]
fn what_does_not_go_together_is_refused_with_a_sentence() {
    let home = Home::new();
    let text = home.write("x.txt", "a b\n");
    let rows = home.rows("x.jsonl", &[json!({"messages": [{"role": "user", "content": "a"}]})]);
    let refuse = |objective, file| home.load(objective, file).unwrap_err().to_string();
    let said = refuse(Objective::Preference, source(text.clone(), text_column()));
    assert!(said.contains("preferences, which need a chosen and a rejected answer"), "{said}");
    let assistant = Objective::FineTuning(LossOn::Assistant);
    let said = refuse(assistant, source(text, messages_column()));
    assert!(said.contains("a plain text file holds no messages"), "{said}");
    home.write("tokenizer_config.json", "{}");
    let said = refuse(assistant, source(rows, messages_column()));
    assert!(said.contains("need a chat template"), "{said}");
    let not_parquet = home.write("y.parquet", "PAR1 no");
    let said = refuse(assistant, source(not_parquet, messages_column()));
    assert!(said.contains("need a chat template"), "{said}");
}

#[test]
fn a_damaged_parquet_file_is_an_error_and_not_a_panic() {
    let home = Home::new();
    let path = home.path("x.parquet");
    write_parquet(&path, &["a b c", "d e f", "g h"], Compression::SNAPPY);
    let whole = fs::read(&path).unwrap();
    for cut in [0, 3, whole.len() / 2, whole.len() - 1] {
        fs::write(&path, &whole[..cut]).unwrap();
        let load = home.load(Objective::Pretraining, source(path.clone(), text_column()));
        assert!(matches!(load, Err(DataError::Read { .. })), "{cut} bytes");
    }
    fs::write(&path, &whole).unwrap();
    // The header of the text's first page, which says how much it holds.
    let footer = ParquetMetaDataReader::new().parse_and_finish(&fs::File::open(&path).unwrap());
    let page = footer.unwrap().row_group(0).column(1).data_page_offset();
    let mut harmed = whole.clone();
    harmed[usize::try_from(page).unwrap()] = 0xff;
    fs::write(&path, &harmed).unwrap();
    let error = home.load(Objective::Pretraining, source(path.clone(), text_column())).unwrap_err();
    let said = hearth_worker::error::Error::from(error).sentence();
    assert!(said.contains(r#"row group 0: column "text": no page header"#), "{said}");
    fs::write(&path, &whole).unwrap();
    let columns = Columns::Text { text: "body".into() };
    let error = home.load(Objective::Pretraining, source(path, columns)).unwrap_err();
    let said = hearth_worker::error::Error::from(error).sentence();
    assert!(said.contains("it has no column body, only other, text"), "{said}");
}

#[test]
fn sequences_do_not_depend_on_threads_nor_on_what_the_cache_holds() {
    let home = Home::new();
    // Several chunks, so that threads take turns.
    let rows: Vec<Value> = (0..3000usize)
        .map(|row| {
            let words: Vec<&str> = (0..=row % 5).map(|at| WORDS[(row + at * row) % 8]).collect();
            json!({"text": words.join(" ")})
        })
        .collect();
    let path = home.rows("x.jsonl", &rows);
    let load = |threads| {
        let file = source(path.clone(), text_column());
        home.load_with(Objective::Pretraining, file, 0, threads).unwrap()
    };
    let alone = load(1);
    let want = read(&alone.train);
    assert_eq!(want.len(), 3000);
    let entries: Vec<PathBuf> =
        fs::read_dir(home.path("cache")).unwrap().map(|entry| entry.unwrap().path()).collect();
    let [entry] = &entries[..] else { panic!("{entries:?}") };
    let written = fs::read(entry).unwrap();
    // From the cache; anew after damage; anew with more threads.
    assert_eq!(read(&load(3).train), want);
    let mut damaged = written.clone();
    damaged[100] ^= 1;
    fs::write(entry, damaged).unwrap();
    assert_eq!(read(&load(3).train), want);
    assert_eq!(fs::read(entry).unwrap(), written);
    // Where no cache can be written, in memory.
    fs::remove_dir_all(home.path("cache")).unwrap();
    home.write("cache", "a file where the directory should be");
    let again = load(2);
    assert_eq!((read(&again.train), again.fingerprint), (want, alone.fingerprint));
}
