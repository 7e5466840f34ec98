//! Keys of a bucket → paths below a directory. Pure.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use object_store::ObjectMeta;
use object_store::path::Path as Key;

/// An object to fetch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Object {
    pub(super) key: Key,
    /// Where it goes, below the directory of all.
    pub(super) path: PathBuf,
    pub(super) size: u64,
    /// The server's word for its content: its ETag, else when it was written.
    pub(super) content: String,
}

/// A key that can be no path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct BadKey {
    pub(super) key: String,
    pub(super) detail: &'static str,
}

impl Object {
    /// The one object that a source names.
    pub(super) fn single(told: &ObjectMeta) -> Result<Self, BadKey> {
        let name = told.location.as_ref().rsplit('/').next().unwrap_or_default();
        Self::new(told, name)
    }

    fn new(told: &ObjectMeta, below: &str) -> Result<Self, BadKey> {
        Ok(Self {
            key: told.location.clone(),
            path: relative(below)?,
            size: told.size,
            content: content(told),
        })
    }
}

/// The server's word for an object's content, however it quotes ETags.
pub(super) fn content(told: &ObjectMeta) -> String {
    let tag = told.e_tag.as_deref().map(|tag| tag.trim_matches('"').to_owned());
    tag.unwrap_or_else(|| told.last_modified.to_rfc3339())
}

/// All objects below `prefix`, in the order of their paths. Those of no bytes are passed over:
/// consoles make such to show a directory.
pub(super) fn below(prefix: &Key, found: &[ObjectMeta]) -> Result<Vec<Object>, BadKey> {
    let root = format!("{prefix}/");
    let mut objects = Vec::new();
    for told in found.iter().filter(|told| told.size > 0) {
        if let Some(path) = told.location.as_ref().strip_prefix(&root) {
            objects.push(Object::new(told, path)?);
        }
    }
    objects.sort_by(|one, other| one.path.cmp(&other.path));
    let refused = |object: &Object, detail| BadKey { key: object.key.to_string(), detail };
    let mut paths = BTreeSet::new();
    for object in &objects {
        if !paths.insert(object.path.as_path()) {
            return Err(refused(object, "is the path of another one, too"));
        }
    }
    // Of `a` and `a/b`, the first would have to be a file and a directory.
    let above = |object: &&Object| {
        object.path.ancestors().skip(1).any(|directory: &Path| paths.contains(directory))
    };
    match objects.iter().find(above) {
        Some(object) => Err(refused(object, "lies below a key that is an object itself")),
        None => Ok(objects),
    }
}

/// A key as a path below a directory, which it cannot leave.
pub(super) fn relative(key: &str) -> Result<PathBuf, BadKey> {
    let refused = |detail| Err(BadKey { key: key.to_owned(), detail });
    let mut path = PathBuf::new();
    for part in key.split('/') {
        match part {
            "" => return refused("has an empty segment"),
            "." | ".." => return refused("has the segment \".\" or \"..\""),
            part if part.chars().any(char::is_control) => {
                return refused("has a control character");
            }
            part => path.push(part),
        }
    }
    Ok(path)
}

/// Name of what is fetched: the same bucket, key and objects have the same.
pub(super) fn id(bucket: &str, key: &str, objects: &[Object]) -> String {
    let mut hasher = blake3::Hasher::new();
    let mut add = |text: &str| {
        hasher.update(&(text.len() as u64).to_le_bytes()).update(text.as_bytes());
    };
    add(bucket);
    add(key);
    for object in objects {
        add(object.key.as_ref());
        add(&object.size.to_string());
        add(&object.content);
    }
    let hash = hasher.finalize().to_hex();
    hash.get(..16).unwrap_or(&hash).to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(key: &str, size: u64, e_tag: Option<&str>) -> ObjectMeta {
        ObjectMeta {
            location: Key::parse(key).unwrap(),
            last_modified: "2026-01-02T03:04:05Z".parse().unwrap(),
            size,
            e_tag: e_tag.map(str::to_owned),
            version: None,
        }
    }

    fn paths(found: &[&str]) -> Result<Vec<String>, BadKey> {
        let found: Vec<_> = found.iter().map(|key| told(key, 1, Some("\"a\""))).collect();
        let objects = below(&Key::parse("rows").unwrap(), &found)?;
        Ok(objects.iter().map(|object| object.path.display().to_string()).collect())
    }

    #[test]
    fn a_key_is_a_path_below_the_directory_or_refused() {
        for key in ["a.jsonl", "day=1/part 0.parquet", "a%2Fb", "日/x", "..a/.b", "a/b/c.jsonl"] {
            assert_eq!(relative(key).unwrap(), Path::new(key));
        }
        for (key, part) in [
            ("", "empty"),
            ("/etc/passwd", "empty"),
            ("a//b", "empty"),
            ("a/", "empty"),
            ("..", "\"..\""),
            ("a/../../b", "\"..\""),
            ("./a", "\".\""),
            ("a\nb", "control"),
            ("a\0", "control"),
        ] {
            let refused = relative(key).unwrap_err();
            assert!(refused.detail.contains(part), "{key:?}: {refused:?}");
        }
    }

    #[test]
    fn objects_come_in_the_order_of_their_paths_and_only_from_below_the_prefix() {
        let found = ["rows/b/1.jsonl", "rows/a.jsonl", "rows", "rows2/c.jsonl"];
        assert_eq!(paths(&found).unwrap(), ["a.jsonl", "b/1.jsonl"]);
    }

    #[test]
    fn an_object_where_others_need_a_directory_is_refused() {
        for found in [["rows/a", "rows/a/b"], ["rows/a/b/c", "rows/a"]] {
            let refused = paths(&found).unwrap_err();
            assert!(refused.detail.contains("below a key"), "{refused:?}");
        }
        let refused = paths(&["rows/a", "rows/a/"]).unwrap_err();
        assert!(refused.detail.contains("another one"), "{refused:?}");
        // "a" and "a-b" are neighbours, and so are "a.b" and what is below "a".
        assert_eq!(paths(&["rows/a-b", "rows/a.b", "rows/a/c"]).unwrap().len(), 3);
    }

    #[test]
    fn what_shows_a_directory_is_passed_over() {
        let prefix = Key::parse("rows").unwrap();
        let found = [told("rows/", 0, None), told("rows/a/", 0, None), told("rows/a/b", 3, None)];
        let objects = below(&prefix, &found).unwrap();
        assert_eq!(objects.len(), 1);
        assert_eq!(objects[0].path, Path::new("a/b"));
    }

    #[test]
    fn the_name_follows_from_all_that_tells_of_the_content() {
        let name = |bucket: &str, key: &str, size: u64, e_tag: &str| {
            let object = Object::single(&told(key, size, Some(e_tag))).unwrap();
            id(bucket, key, &[object])
        };
        let one = name("b", "rows.csv", 7, "\"x\"");
        assert_eq!(one, name("b", "rows.csv", 7, "x"), "servers quote or do not");
        assert_eq!(one.len(), 16);
        for other in [
            name("c", "rows.csv", 7, "x"),
            name("b", "rows.tsv", 7, "x"),
            name("b", "rows.csv", 8, "x"),
            name("b", "rows.csv", 7, "y"),
        ] {
            assert_ne!(one, other);
        }
        let undated = Object::single(&told("k", 1, None)).unwrap();
        assert!(undated.content.starts_with("2026-01-02T03:04:05"), "{}", undated.content);
    }
}
