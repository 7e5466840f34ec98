//! Pictures: shapes are learned from files and from Parquet, two ranks learn what one does, a
//! killed run goes on bit for bit, running statistics included, and the export is what was
//! trained.

use std::fs;
use std::io::Cursor;
use std::path::Path;
use std::sync::Arc;

use hearth_crds::worker_config::{DataFile, TrainData};
use hearth_worker::data::dataset::{self, ReadOptions};
use hearth_worker::data::{Fetched, Labels, Preprocessor, TrainingSet};
use hearth_worker::event::{EvalMetrics, RankEvent};
use hearth_worker::export::ModelCard;
use hearth_worker::model;
use hearth_worker::objective::Place;
use hearth_worker::train::evaluate::evaluate;
use image::{DynamicImage, ImageFormat, Rgb, RgbImage};
use parquet::basic::{LogicalType, Repetition, Type as Physical};
use parquet::data_type::{ByteArray, ByteArrayType};
use parquet::file::properties::WriterProperties;
use parquet::file::writer::SerializedFileWriter;
use parquet::schema::types::{Type, TypePtr};
use serde_json::{Value, json};
use tch::{Device, Tensor};

use crate::fixture::Fixture;
use crate::gang::{Ended, Gang};
use crate::parity_images;

pub(crate) const SHAPES: [&str; 3] = ["cross", "disc", "frame"];

/// A picture of 20 by 24 pixels of the shape `row % 3`, in a colour and at a place of its own.
fn shape(row: u32) -> RgbImage {
    let pick = |salt: u32, sides: u32| {
        let mixed = (row * 4096 + salt).wrapping_mul(2_654_435_761);
        ((mixed ^ (mixed >> 15)).wrapping_mul(2_246_822_519) >> 8) % sides
    };
    let (x0, y0) = (8 + pick(1, 5), 7 + pick(2, 7));
    let ink = Rgb([1, 2, 3].map(|salt| u8::try_from(150 + pick(10 + salt, 100)).unwrap()));
    RgbImage::from_fn(20, 24, |x, y| {
        let (dx, dy) = (x.abs_diff(x0), y.abs_diff(y0));
        let inside = match row % 3 {
            0 => dx.min(dy) <= 1 && dx.max(dy) <= 5,
            1 => dx * dx + dy * dy <= 20,
            _ => dx.max(dy) == 5 || dx.max(dy) == 4,
        };
        let grain = u8::try_from(pick(100 + x * 31 + y * 57, 60)).unwrap();
        if inside { ink } else { Rgb([grain, grain / 2, 40]) }
    })
}

pub(crate) fn png(row: u32) -> Vec<u8> {
    let mut bytes = Vec::new();
    let picture = DynamicImage::from(shape(row));
    picture.write_to(&mut Cursor::new(&mut bytes), ImageFormat::Png).unwrap();
    bytes
}

fn write(path: &Path, bytes: &[u8]) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    hearth_worker::files::write_synced(path, |out| std::io::Write::write_all(out, bytes)).unwrap();
}

/// A fixture with a model of `images.json` and `rows` pictures to learn from.
pub(crate) fn fixture(case: &str, processor: &Value, rows: u32) -> Fixture {
    let fixture = Fixture::new(0.0);
    fs::remove_dir_all(fixture.path("model")).unwrap();
    parity_images::put(case, &fixture.path("model"));
    fixture.write("model/preprocessor_config.json", &processor.to_string());
    write_rows(&fixture, "train.jsonl", 0..rows);
    fixture
}

fn write_rows(fixture: &Fixture, name: &str, rows: std::ops::Range<u32>) {
    let line = |row: u32| {
        write(&fixture.path(&format!("pictures/{row}.png")), &png(row));
        let image = format!("pictures/{row}.png");
        json!({"image": image, "label": SHAPES[row as usize % 3]}).to_string()
    };
    let lines: Vec<String> = rows.map(line).collect();
    fixture.write(name, &lines.join("\n"));
}

pub(crate) fn resnet() -> Value {
    json!({"image_processor_type": "ConvNextImageProcessor", "size": {"shortest_edge": 20},
           "crop_pct": 1.0, "resample": 2})
}

pub(crate) fn vit() -> Value {
    json!({"image_processor_type": "ViTImageProcessor", "size": {"height": 16, "width": 16}})
}

pub(crate) fn pictures(config: &mut Value) {
    config["task"] = "ImageClassification".into();
    config["data"]["clean"] = json!([]);
    config["training"].as_object_mut().unwrap().remove("maxLength");
    config["training"]["gradientAccumulationSteps"] = 1.into();
    config["training"]["perDeviceTrainBatchSize"] = 8.into();
}

fn evaluations(ended: &Ended) -> Vec<EvalMetrics> {
    ended.of_rank_0(|event| match event {
        RankEvent::Evaluation { metrics, .. } => Some(metrics.clone()),
        _ => None,
    })
}

/// Reads pictures as training does.
fn load(fixture: &Fixture, file: &str, labels: Option<&Labels>, max_bad_rows: u64) -> TrainingSet {
    try_load(fixture, file, labels, max_bad_rows).unwrap()
}

fn try_load(
    fixture: &Fixture,
    file: &str,
    labels: Option<&Labels>,
    max_bad_rows: u64,
) -> Result<TrainingSet, String> {
    let preprocessor = Preprocessor::load(&fixture.path("model")).unwrap();
    let path = fixture.path(file);
    let format = if file.ends_with(".parquet") { "Parquet" } else { "JSONL" };
    let format = serde_json::from_value(format.into()).unwrap();
    let data = TrainData {
        train: DataFile { path, format, ..DataFile::default() },
        eval: None,
        eval_split: None,
        clean: Vec::new(),
        replace: Vec::new(),
        mask: Vec::new(),
        prepared: None,
        max_bad_rows,
    };
    let options = ReadOptions {
        encoder: &preprocessor,
        cache: &fixture.path("cache"),
        threads: std::num::NonZeroUsize::new(3).unwrap(),
        seed: 0,
    };
    dataset::load_pictures(&data, labels, &options).map_err(|error| error.to_string())
}

fn fetched(set: &TrainingSet) -> (Vec<u8>, Vec<i64>) {
    let mut fetched = Fetched::default();
    let all: Vec<u32> = (0..set.train.len()).collect();
    set.train.fetch(&all, &mut fetched).unwrap();
    let classes = fetched.sequences().map(|sequence| sequence.class).collect();
    (fetched.pixels().unwrap().0.to_vec(), classes)
}

#[test]
fn shapes_are_learned_by_two_ranks_and_the_export_evaluates_to_the_reported_figures() {
    let fixture = fixture("resnet-basic", &resnet(), 180);
    write_rows(&fixture, "eval.jsonl", 300..390);
    let config = fixture.config("job", |config| {
        pictures(config);
        let mut file = config["data"]["train"].clone();
        file["path"] = fixture.path("eval.jsonl").to_str().into();
        config["data"]["eval"] = file;
        config["training"]["numTrainEpochs"] = 8.into();
        config["training"]["learningRate"] = 1e-2.into();
        config["training"]["evalStrategy"] = "Epoch".into();
        config["training"]["saveStrategy"] = "Epoch".into();
    });
    let ended = Gang::run(&config, 2).succeeded();
    let reported = evaluations(&ended).pop().unwrap();
    assert!(
        reported.accuracy.unwrap() >= 0.95 && reported.f1_macro.unwrap() >= 0.95,
        "{reported:?}"
    );
    assert_eq!((reported.samples, reported.f1_by_class.len()), (90, 3));

    let directory = fixture.path("job/model");
    let exported = model::load(&directory, Device::Cpu).unwrap();
    assert_eq!(exported.architecture(), "ResNetForImageClassification");
    assert_eq!(exported.labels().names(), SHAPES);
    assert_eq!(exported.left_over, Vec::<String>::new());
    let card = ModelCard::read(&directory).unwrap().unwrap();
    assert_eq!(card.first_damage(&directory), None);
    assert!(card.files.contains_key("preprocessor_config.json"));

    // One process finds what two found together: they used rank 0's running statistics, which
    // are also those of the checkpoint, whichever rank wrote it.
    let samples = load(&fixture, "eval.jsonl", Some(exported.labels()), 0).train;
    let place = Place::new(0, Device::Cpu);
    let again = evaluate(&exported, &samples, 7, place).unwrap();
    assert!((again.loss - reported.loss).abs() < 1e-5, "{again:?} {reported:?}");
    assert_eq!(again.f1_by_class, reported.f1_by_class);
    let newest = fixture.checkpoints("job")[0];
    let saved: Vec<(String, Tensor)> = (0..2)
        .flat_map(|rank| {
            let shard = format!("job/checkpoints/step-{newest}/rank-{rank}.safetensors");
            Tensor::read_safetensors(fixture.path(&shard)).unwrap()
        })
        .collect();
    for statistic in exported.statistics() {
        let name = format!("model.{}", statistic.name);
        let found: Vec<&Tensor> =
            saved.iter().filter(|(saved, _)| *saved == name).map(|(_, tensor)| tensor).collect();
        assert!(!found.is_empty() && found.iter().all(|t| t.equal(&statistic.tensor)), "{name}");
    }
}

#[test]
fn two_ranks_learn_from_pictures_what_one_does() {
    let fixture = fixture("vit", &vit(), 60);
    let losses = |output: &str, ranks: usize, batch: u32| {
        let config = fixture.config(output, |config| {
            pictures(config);
            config["training"]["perDeviceTrainBatchSize"] = batch.into();
            config["training"]["maxSteps"] = 20.into();
            config["training"]["learningRate"] = 5e-3.into();
            config["training"]["warmupSteps"] = 0.into();
            config["training"]["saveStrategy"] = "No".into();
        });
        Gang::run(&config, ranks).succeeded().losses()
    };
    let (one, two) = (losses("one", 1, 16), losses("two", 2, 8));
    assert_eq!((one.len(), two.len()), (20, 20));
    assert!(one[19].1 < 0.8 * one[0].1, "{one:?}");
    let gaps = one.iter().zip(&two).map(|(one, two)| (one.1 - two.1).abs());
    let gap = gaps.fold(0.0, f64::max);
    assert!(gap <= 1e-5, "losses differ by {gap:e}");
}

/// Running statistics are a part of what a run goes on from: with the file's own, evaluations and
/// the export would be others.
#[test]
fn a_killed_run_of_batch_norms_goes_on_bit_for_bit() {
    let fixture = fixture("resnet-basic", &resnet(), 60);
    let of = |output: &str| {
        fixture.config(output, |config| {
            pictures(config);
            config["data"]["evalSplit"] = 0.2.into();
            config["training"]["maxSteps"] = 60.into();
            config["training"]["evalStrategy"] = "Steps".into();
            config["training"]["evalSteps"] = 5.into();
            config["training"]["loadBestModelAtEnd"] = true.into();
            config["training"]["metricForBestModel"] = "loss".into();
        })
    };
    let whole = Gang::run(&of("whole"), 1).succeeded();
    let config = of("killed");
    let mut run = Gang::start(&config, 1);
    run.until(|_, event| matches!(event, RankEvent::Checkpoint { step: 10, .. }));
    run.kill();
    let rest = Gang::run(&config, 1).succeeded();
    let from = rest.resumed_from().unwrap();
    assert!((10..60).contains(&from), "went on from {from}");
    let (whole_losses, rest_losses) = (whole.losses(), rest.losses());
    assert_eq!(rest_losses, whole_losses[whole_losses.len() - rest_losses.len()..]);
    let figures = |ended: &Ended| -> Vec<f64> {
        evaluations(ended).into_iter().map(|metrics| metrics.loss).collect()
    };
    let (whole, rest) = (figures(&whole), figures(&rest));
    assert_eq!(rest, whole[whole.len() - rest.len()..], "evaluations, bit for bit");
    let file =
        |output: &str| fs::read(fixture.path(output).join("model/model.safetensors")).unwrap();
    assert!(file("whole") == file("killed"), "the exports differ");
}

#[test]
fn mobilenet_is_trained_and_exported() {
    let processor = json!({"image_processor_type": "MobileNetV2ImageProcessor",
        "size": {"shortest_edge": 20}, "crop_size": {"height": 20, "width": 20}});
    let fixture = fixture("mobilenet-v2", &processor, 48);
    let config = fixture.config("job", |config| {
        pictures(config);
        config["training"]["maxSteps"] = 25.into();
        config["training"]["perDeviceTrainBatchSize"] = 16.into();
        config["training"]["learningRate"] = 1e-2.into();
        config["training"]["warmupSteps"] = 0.into();
        config["training"]["saveStrategy"] = "No".into();
    });
    let losses = Gang::run(&config, 1).succeeded().losses();
    let mean = |losses: &[(i64, f64)]| losses.iter().map(|(_, loss)| loss).sum::<f64>() / 5.0;
    assert!(mean(&losses[20..]) < 0.6 * mean(&losses[..5]), "{losses:?}");
    let exported = model::load(&fixture.path("job/model"), Device::Cpu).unwrap();
    assert_eq!(exported.architecture(), "MobileNetV2ForImageClassification");
    let batches = exported
        .statistics()
        .into_iter()
        .find(|statistic| statistic.name.ends_with("num_batches_tracked"))
        .unwrap();
    assert_eq!(i64::try_from(&batches.tensor).unwrap(), 7 + 25);
}

#[test]
fn parquet_of_hugging_face_holds_the_same_pictures() {
    let fixture = fixture("vit", &vit(), 21);
    let files = load(&fixture, "train.jsonl", None, 0);
    write_parquet(&fixture.path("train.parquet"), 21);
    let parquet = load(&fixture, "train.parquet", None, 0);
    assert_eq!(files.labels.names(), SHAPES);
    assert_eq!(files.labels, parquet.labels);
    assert!(fetched(&files) == fetched(&parquet));
    assert_eq!(fetched(&files).0.len(), 21 * 16 * 16 * 3);
    // What is learned from is the same, so a run may go on with the other file.
    assert_eq!(files.fingerprint, parquet.fingerprint);
}

#[test]
fn bad_pictures_are_told_with_their_line_and_a_changed_one_is_read_anew() {
    let fixture = fixture("vit", &vit(), 12);
    let whole = load(&fixture, "train.jsonl", None, 0);
    let bytes = fs::read(fixture.path("pictures/3.png")).unwrap();
    write(&fixture.path("pictures/3.png"), &bytes[..bytes.len() / 2]);
    fs::remove_file(fixture.path("pictures/7.png")).unwrap();
    let mut lines = fs::read_to_string(fixture.path("train.jsonl")).unwrap();
    lines.push_str("\n{\"image\": \"/etc/hostname\", \"label\": \"disc\"}\n");
    fixture.write("train.jsonl", &lines);

    let refused = try_load(&fixture, "train.jsonl", None, 2).unwrap_err();
    let told = ["train.jsonl:4", "pictures/3.png", "3 malformed row(s)", "data.maxBadRows"];
    assert!(told.iter().all(|word| refused.contains(word)), "{refused}");
    let rest = load(&fixture, "train.jsonl", None, 3);
    assert_eq!(rest.train.len(), 10);
    let skipped: Vec<(u64, bool)> = rest
        .skipped
        .iter()
        .map(|(_, row)| (row.line, row.reason.contains("pictures/7.png")))
        .collect();
    assert_eq!(skipped, [(4, false), (8, true), (13, false)]);

    // The file of rows is the same; the pictures are not.
    write_rows(&fixture, "train.jsonl", 0..12);
    assert_eq!(load(&fixture, "train.jsonl", None, 0).fingerprint, whole.fingerprint);
    write(&fixture.path("pictures/5.png"), &png(8));
    let other = load(&fixture, "train.jsonl", None, 0);
    assert_ne!(other.fingerprint, whole.fingerprint);
    assert!(fetched(&other).0 != fetched(&whole).0);
}

#[test]
fn what_does_not_go_together_is_refused_by_name() {
    let fixture = fixture("vit", &vit(), 12);
    let text = Fixture::new(0.0);
    let sizes = json!({"image_processor_type": "ViTImageProcessor", "size": 20});
    fixture.write("other/preprocessor_config.json", &sizes.to_string());
    for file in ["config.json", "model.safetensors"] {
        fs::copy(fixture.path("model").join(file), fixture.path("other").join(file)).unwrap();
    }
    for (model, task, code, named) in [
        (text.path("model"), "ImageClassification", 64, "ViT, ResNet or MobileNetV2"),
        (fixture.path("model"), "SequenceClassification", 64, "ImageClassification"),
        (fixture.path("other"), "ImageClassification", 65, "image_size is 16"),
    ] {
        let config = fixture.config("refused", |config| {
            pictures(config);
            config["task"] = task.into();
            config["model"] = model.to_str().into();
        });
        let ended = Gang::run(&config, 1);
        let (reason, message) = ended.failure();
        assert_eq!(ended.codes, [Some(code)], "{reason}: {message}");
        assert!(message.contains(named), "{message}");
    }
    let read = model::load(&fixture.path("model"), Device::Cpu).unwrap().expect_text();
    assert!(read.unwrap_err().to_string().contains("pictures"));
}

/// `{image: {bytes, path}, label}`, as `datasets` writes them.
fn write_parquet(path: &Path, rows: u32) {
    let leaf = |name: &str, text: bool| {
        let leaf = Type::primitive_type_builder(name, Physical::BYTE_ARRAY)
            .with_logical_type(text.then_some(LogicalType::String))
            .with_repetition(Repetition::OPTIONAL);
        Arc::new(leaf.build().unwrap())
    };
    let image = Type::group_type_builder("image")
        .with_repetition(Repetition::OPTIONAL)
        .with_fields(vec![leaf("bytes", false), leaf("path", true)]);
    let fields = vec![Arc::new(image.build().unwrap()), leaf("label", true)];
    let schema: TypePtr =
        Arc::new(Type::group_type_builder("schema").with_fields(fields).build().unwrap());
    let file = fs::File::create(path).unwrap();
    let properties = Arc::new(WriterProperties::builder().build());
    let mut writer = SerializedFileWriter::new(file, schema, properties).unwrap();
    let mut group = writer.next_row_group().unwrap();
    let texts = |text: &dyn Fn(u32) -> String| -> Vec<ByteArray> {
        (0..rows).map(|row| ByteArray::from(text(row).as_str())).collect()
    };
    let columns = [
        ((0..rows).map(|row| ByteArray::from(png(row))).collect(), 2),
        (texts(&|row| format!("{row}.png")), 2),
        (texts(&|row| SHAPES[row as usize % 3].to_owned()), 1),
    ];
    for (values, depth) in columns {
        let mut column = group.next_column().unwrap().unwrap();
        let present = vec![depth; values.len()];
        column.typed::<ByteArrayType>().write_batch(&values, Some(&present), None).unwrap();
        column.close().unwrap();
    }
    group.close().unwrap();
    writer.close().unwrap();
}
