//! `hearth-worker load-features`: rows of features → a feature store.

use std::path::PathBuf;
use std::time::Duration;

use hearth_crds::features::{
    Feature, FeatureStore, FeatureType, FeatureView, OnFailure, PasswordSecret,
};
use hearth_crds::worker_config::ExitCode;
use hearth_features::{Access, Columns, LoadError, LoadOptions, LoadReport, Password, Store, load};

use crate::agent::service::chain;
use crate::wait::wait_for;

/// What is loaded, and where it goes.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Example:\n  hearth-worker load-features --url redis://features:6379 --entity accounts --key account --time at \\\n    --feature outCount24h:Integer --feature outSum24h accounts.parquet"
)]
pub struct Arguments {
    /// `redis://HOST[:PORT][/DB]`, or `rediss://` for TLS, without a password.
    #[arg(long)]
    url: String,
    /// File that holds the store's password.
    #[arg(long)]
    password_file: Option<PathBuf>,
    /// Kind of entity, as it stands in the store's keys (`hearth:ENTITY:KEY`).
    #[arg(long)]
    entity: String,
    /// Column of the entity's key.
    #[arg(long)]
    key: String,
    /// Column of the time at which a row was true.
    #[arg(long)]
    time: String,
    /// Column of a feature, with its type (Number, Integer, Boolean or Text) where that is not Number.
    #[arg(long = "feature", value_name = "NAME[:TYPE]", required = true, value_parser = feature)]
    features: Vec<Feature>,
    /// Seconds that an entity stays in the store after it was last written; for good where left out.
    #[arg(long)]
    time_to_live: Option<u64>,
    /// Seconds that the files may be missing: for files that something else writes first.
    #[arg(long, default_value_t = 0)]
    wait_seconds: u64,
    /// Parquet files.
    #[arg(required = true)]
    files: Vec<PathBuf>,
}

fn feature(text: &str) -> Result<Feature, String> {
    let (name, type_) = text.rsplit_once(':').unwrap_or((text, "Number"));
    let type_ = match type_ {
        "Number" => FeatureType::Number,
        "Integer" => FeatureType::Integer,
        "Boolean" => FeatureType::Boolean,
        "Text" => FeatureType::Text,
        other => return Err(format!("{other:?} is none of Number, Integer, Boolean and Text")),
    };
    Ok(Feature { name: name.to_owned(), field: None, type_, default: None })
}

/// Loads the files; the process's exit code.
pub fn run(arguments: &Arguments) -> i32 {
    wait_for(arguments.files.iter(), Duration::from_secs(arguments.wait_seconds));
    match loaded(arguments) {
        Ok(LoadReport { rows, created, replaced, older, without_key, without_time }) => {
            tracing::info!(rows, created, replaced, older, without_key, without_time, "loaded");
            ExitCode::Done as i32
        }
        Err(error) => {
            tracing::error!("{}", chain(&error));
            match error {
                LoadError::Config(_) => ExitCode::Usage as i32,
                LoadError::Table { .. } => ExitCode::Data as i32,
                _ => ExitCode::Failure as i32,
            }
        }
    }
}

fn loaded(asked: &Arguments) -> Result<LoadReport, LoadError> {
    let view = FeatureView {
        name: asked.entity.clone(),
        entity: None,
        key: asked.key.clone(),
        features: asked.features.clone(),
        max_age_seconds: None,
    };
    let secret = |path: &PathBuf| PasswordSecret {
        name: path.to_string_lossy().into_owned(),
        key: "password".to_owned(),
    };
    let store = FeatureStore {
        url: asked.url.clone(),
        password_secret: asked.password_file.as_ref().map(secret),
        views: vec![view.clone()],
        timeout_milliseconds: 1000,
        on_failure: OnFailure::default(),
    };
    let password = asked.password_file.clone().map(Password::File);
    let store = Store::new(&store, Access { password, authorities: None })?;
    let columns = Columns { key: asked.key.clone(), time: asked.time.clone() };
    let time_to_live = asked.time_to_live.map(Duration::from_secs);
    let options = LoadOptions { time_to_live, ..LoadOptions::default() };
    let runtime = tokio::runtime::Runtime::new().expect("a runtime can be made");
    runtime.block_on(load(&store, &asked.files, &view, &columns, &options))
}
