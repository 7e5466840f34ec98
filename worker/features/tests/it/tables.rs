//! Tables and files of tests.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow_array::{Array, ArrayRef, RecordBatch};
use hearth_crds::features::FeatureView;
use hearth_features::Columns;
use parquet::arrow::ArrowWriter;
use serde_json::{Value, json};

pub(crate) fn table(columns: Vec<(&str, Arc<dyn Array>)>) -> RecordBatch {
    let nullable = columns.into_iter().map(|(name, array): (&str, ArrayRef)| (name, array, true));
    RecordBatch::try_from_iter_with_nullable(nullable).unwrap()
}

pub(crate) fn parquet(dir: &Path, name: &str, table: &RecordBatch) -> PathBuf {
    let path = dir.join(name);
    let mut writer =
        ArrowWriter::try_new(File::create(&path).unwrap(), table.schema(), None).unwrap();
    writer.write(table).unwrap();
    writer.close().unwrap();
    path
}

pub(crate) fn view(features: &Value) -> FeatureView {
    let view = json!({"name": "customer", "key": "id", "features": features});
    serde_json::from_value(view).unwrap()
}

pub(crate) fn columns() -> Columns {
    Columns { key: "id".into(), time: "at".into() }
}
