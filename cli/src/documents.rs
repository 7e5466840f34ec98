//! The documents of a YAML file.

use std::io::Read as _;
use std::path::Path;

use serde::Deserialize;

/// A document, before anyone has looked into its spec.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Document {
    /// Place in the file, from 1.
    pub(crate) number: usize,
    /// Line of the file on which it begins, from 1.
    pub(crate) line: usize,
    /// `TrainingJob`; empty where there is none.
    pub(crate) kind: String,
    /// Empty where there is none.
    pub(crate) name: String,
    /// Its text alone.
    pub(crate) text: String,
}

/// A file that holds nothing to run.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DocumentsError {
    #[error("document {number} (line {line}) is not YAML: {source}")]
    Syntax { number: usize, line: usize, source: serde_yaml_ng::Error },
    #[error("there is no document in it; write a TrainingJob")]
    Empty,
}

#[derive(Deserialize)]
struct Header {
    #[serde(default)]
    kind: String,
    #[serde(default)]
    metadata: Metadata,
}

#[derive(Default, Deserialize)]
struct Metadata {
    #[serde(default)]
    name: String,
}

/// A file's text; `-` is standard input.
pub(crate) fn read(file: &Path) -> std::io::Result<String> {
    if file == Path::new("-") {
        let mut text = String::new();
        std::io::stdin().read_to_string(&mut text)?;
        return Ok(text);
    }
    std::fs::read_to_string(file)
}

/// Splits a file at its `---` lines. Documents of comments alone are left out.
pub(crate) fn split(text: &str) -> Result<Vec<Document>, DocumentsError> {
    let mut documents = Vec::new();
    for (line, text) in pieces(text) {
        let only_comments =
            text.lines().all(|line| line.trim().is_empty() || line.trim_start().starts_with('#'));
        if only_comments {
            continue;
        }
        let number = documents.len() + 1;
        let header: Header = serde_yaml_ng::from_str(&text)
            .map_err(|source| DocumentsError::Syntax { number, line, source })?;
        let (kind, name) = (header.kind, header.metadata.name);
        documents.push(Document { number, line, kind, name, text });
    }
    if documents.is_empty() { Err(DocumentsError::Empty) } else { Ok(documents) }
}

/// Texts between `---` lines, each with the line it begins on. A marker counts
/// at the beginning of a line only (YAML 1.2, 9.1.2), where no value can be.
fn pieces(text: &str) -> Vec<(usize, String)> {
    let mut pieces = vec![(1, String::new())];
    for (number, line) in (1..).zip(text.lines()) {
        let rest = line.strip_prefix("---").filter(|rest| rest.is_empty() || rest.starts_with(' '));
        if let Some(rest) = rest {
            // What follows the marker on its line belongs to the document.
            pieces.push((number, format!("{}\n", rest.trim_start())));
        } else if line != "..."
            && let Some((_, piece)) = pieces.last_mut()
        {
            piece.push_str(line);
            piece.push('\n');
        }
    }
    pieces
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_document_is_found_with_its_kind_name_and_line() {
        let file = "# jobs\n---\nkind: TrainingJob\nmetadata: {name: a}\nnote: |\n  ---\n--- # b\n\
                    kind: ModelDeployment\nmetadata: {name: b}\n---\n# nothing\n";
        let found: Vec<_> =
            split(file).unwrap().into_iter().map(|d| (d.number, d.line, d.kind, d.name)).collect();
        assert_eq!(
            found,
            [
                (1, 2, "TrainingJob".into(), "a".into()),
                (2, 7, "ModelDeployment".into(), "b".into())
            ]
        );
    }

    #[test]
    fn what_is_no_document_is_told_with_its_line() {
        let said = split("kind: A\n---\n\tkind: B\n").unwrap_err().to_string();
        assert!(said.starts_with("document 2 (line 2) is not YAML"), "{said}");
        assert!(split("# only a comment\n---\n").unwrap_err().to_string().contains("no document"));
    }
}
