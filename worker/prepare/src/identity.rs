//! What decides on a result's bytes, and so on its name: sources, settings, the format's version.

use std::path::PathBuf;

use hearth_crds::preparation::{PrepareConfig, SourceCard};
use serde_json::Value;

use crate::error::PrepareError;
use crate::manifest::FORMAT_VERSION;
use crate::progress::{Counter, Progress, Stage};
use crate::shape::synonym_files;
use crate::source::{Content, Source};

/// Size and hash of every file.
pub(crate) fn hash_sources(
    (train, eval, features): (&Source, Option<&Source>, &[Source]),
    progress: &mut dyn Progress,
) -> Result<Vec<SourceCard>, PrepareError> {
    let rows = [("train", train)].into_iter().chain(eval.map(|eval| ("eval", eval)));
    let rows = rows.map(|(role, source)| (role.to_owned(), source));
    let named = |(place, source)| (format!("join[{place}]"), source);
    let all: Vec<(String, &Source)> = rows.chain(features.iter().enumerate().map(named)).collect();
    let mut counter =
        Counter::new(progress, Stage::Hash, all.iter().map(|(_, source)| source.bytes()).sum());
    let mut told = Vec::new();
    for (role, source) in all {
        let hashed = source.hash(&mut |bytes| counter.add(0, bytes))?.into_iter();
        told.extend(hashed.map(|content| card(&role, &source.data.uri, content)));
    }
    Ok(told)
}

/// Size and hash of the files of synonyms.
pub(crate) fn hash_synonyms(config: &PrepareConfig) -> Result<Vec<SourceCard>, PrepareError> {
    let asked = config.preparation.augment.as_ref().and_then(|augment| augment.text.as_ref());
    let uri = asked.and_then(|text| text.synonyms.as_ref()).map_or("", |of| of.source.as_str());
    let told = |path: &PathBuf| {
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        Ok(card("synonyms", uri, Content::of(path, name, &mut |_| {})?))
    };
    synonym_files(config).iter().map(told).collect()
}

fn card(role: &str, uri: &str, Content { name, bytes, blake3 }: Content) -> SourceCard {
    SourceCard { role: role.to_owned(), uri: uri.to_owned(), name, bytes, blake3 }
}

/// All settings that decide on the result: not for whom it is, nor where things are.
pub(crate) fn told_recipe(config: &PrepareConfig) -> Result<Value, PrepareError> {
    let mut recipe = serde_json::to_value(config).map_err(PrepareError::internal)?;
    let mut forget = |pointer: &str, names: &[&str]| {
        if let Some(Value::Object(fields)) = recipe.pointer_mut(pointer) {
            for name in names {
                fields.shift_remove(*name);
            }
        }
    };
    forget("", &["version", "job", "output", "outputUri", "synonyms", "features"]);
    forget("/preparation", &["output", "resources", "waitSeconds"]);
    forget("/preparation/augment/text/synonyms", &["source"]);
    for place in 0..config.preparation.join.len() {
        forget(&format!("/preparation/join/{place}"), &["source"]);
    }
    forget("/train", &["path", "uri"]);
    forget("/eval", &["path", "uri"]);
    Ok(recipe)
}

/// Name of the result.
pub(crate) fn name(recipe: &Value, sources: &[SourceCard]) -> Result<String, PrepareError> {
    let sources: Vec<_> = sources
        .iter()
        .map(|source| (&source.role, &source.name, source.bytes, &source.blake3))
        .collect();
    let text =
        serde_json::to_vec(&(FORMAT_VERSION, recipe, sources)).map_err(PrepareError::internal)?;
    let hash = blake3::hash(&text).to_hex();
    Ok(hash.get(..16).unwrap_or(&hash).to_owned())
}
