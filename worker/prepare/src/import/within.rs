//! Paths that stay below a directory.

use std::path::{Component, Path, PathBuf};

/// Directories and file names of a path, without anything that leads elsewhere: `None` for a path
/// that is empty, absolute or goes up.
pub(crate) fn plain(path: &str) -> Option<PathBuf> {
    let mut plain = PathBuf::new();
    for component in Path::new(path).components() {
        match component {
            Component::Normal(name) => plain.push(name),
            Component::CurDir => {}
            Component::ParentDir | Component::RootDir | Component::Prefix(_) => return None,
        }
    }
    (!plain.as_os_str().is_empty() && !path.contains('\0')).then_some(plain)
}

/// Whether there is a file of that name below `root`, links followed. `root` is canonical.
pub(crate) fn is_file(root: &Path, name: &Path) -> bool {
    root.join(name).canonicalize().is_ok_and(|file| file.starts_with(root) && file.is_file())
}

/// A path with slashes between its parts; `None` where it is not Unicode.
pub(crate) fn slashed(path: &Path) -> Option<String> {
    let parts: Option<Vec<&str>> = path.iter().map(|part| part.to_str()).collect();
    parts.map(|parts| parts.join("/"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_paths_that_go_down_are_plain() {
        for (path, want) in [
            ("a/b.png", Some("a/b.png")),
            ("./a//b.png", Some("a/b.png")),
            ("a/../b.png", None),
            ("../b.png", None),
            ("/etc/passwd", None),
            ("", None),
            (".", None),
            ("a\0b", None),
        ] {
            assert_eq!(plain(path), want.map(PathBuf::from), "{path:?}");
        }
    }

    #[test]
    #[cfg(unix)]
    fn links_that_lead_out_are_no_files() {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path().join("root").join("deep");
        std::fs::create_dir_all(&root).unwrap();
        let root = root.canonicalize().unwrap();
        std::fs::File::create(directory.path().join("outside")).unwrap();
        std::fs::File::create(root.join("inside")).unwrap();
        std::os::unix::fs::symlink("../../outside", root.join("out")).unwrap();
        std::os::unix::fs::symlink("inside", root.join("in")).unwrap();
        for (name, want) in [("inside", true), ("in", true), ("out", false), ("none", false)] {
            assert_eq!(is_file(&root, Path::new(name)), want, "{name}");
        }
    }
}
