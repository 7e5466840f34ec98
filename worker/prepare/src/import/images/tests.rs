use std::fs;

use serde_json::json;

use super::*;
use crate::import::Row;

fn tree(files: &[(&str, &str)]) -> tempfile::TempDir {
    let directory = tempfile::tempdir().unwrap();
    for (file, content) in files {
        let path = directory.path().join(file);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::io::Write::write_all(&mut fs::File::create(path).unwrap(), content.as_bytes())
            .unwrap();
    }
    directory
}

/// `path label`, or why there is no row.
fn told(directory: &Path) -> Vec<String> {
    let options =
        ImagesOptions { image: "image".into(), label: "label".into(), files: Files::Pictures };
    let field = |row: &Row, name: &str| row.fields[name].as_str().unwrap().to_owned();
    Images::open(directory, options)
        .unwrap()
        .map(|imported| match imported.unwrap() {
            Imported::Row(row) => format!("{} {}", field(&row, "image"), field(&row, "label")),
            Imported::Malformed(no) => format!("malformed: {}", no.reason),
            Imported::Unlabelled(no) => format!("unlabelled: {}", no.reason),
        })
        .collect()
}

#[test]
fn directories_below_the_root_name_classes() {
    let directory = tree(&[
        ("dog/b.JPG", ""),
        ("dog/a.png", ""),
        ("dog/deep/er/c.jpeg", ""),
        ("cat/2.png", ""),
        ("cat/10.png", ""),
        ("cat/notes.txt", ""),
        ("cat/.hidden.png", ""),
        ("cat/x.webp", ""),
        ("top.png", ""),
        ("empty/readme", ""),
    ]);
    let want = [
        "cat/10.png cat",
        "cat/2.png cat",
        "malformed: is neither PNG nor JPEG; convert it",
        "dog/a.png dog",
        "dog/b.JPG dog",
        "dog/deep/er/c.jpeg dog",
        "unlabelled: lies in no directory that names its class",
    ];
    assert_eq!(told(directory.path()), want);
}

#[test]
fn files_of_scanners_have_any_name() {
    let names = ["a/1.2.840.1", "a/IM0001", "a/b.DCM", "a/c.png", "a/d.txt", "a/DICOMDIR"];
    let directory = tree(&names.map(|name| (name, "")));
    let (image, label) = ("image".into(), "label".into());
    let options = ImagesOptions { image, label, files: Files::Dicom };
    let rows = Images::open(directory.path(), options).unwrap().map(|imported| {
        let Imported::Row(row) = imported.unwrap() else { panic!("all are rows") };
        row.fields["image"].as_str().unwrap().to_owned()
    });
    assert_eq!(rows.collect::<Vec<_>>(), ["a/1.2.840.1", "a/IM0001", "a/b.DCM"]);
}

#[test]
fn metadata_says_what_pictures_show() {
    let lines = [
        r#"{"file_name": "b/2.png", "label": "dog", "age": 3}"#,
        "",
        r#"{"file_name": "1.png", "label": "cat"}"#,
        r#"{"file_name": "../1.png", "label": "cat"}"#,
        r#"{"file_name": "none.png", "label": "cat"}"#,
        r#"{"label": "cat"}"#,
        "[1]",
    ];
    let directory = tree(&[("metadata.jsonl", &lines.join("\n")), ("b/2.png", ""), ("1.png", "")]);
    let want = [
        "b/2.png dog",
        "1.png cat",
        "malformed: file_name leads out of the directory",
        "malformed: file_name names no file below the directory",
        "malformed: the line has no file_name, which says where the picture is",
        "malformed: the line is no JSON object",
    ];
    assert_eq!(told(directory.path()), want);
    let options =
        ImagesOptions { image: "picture".into(), label: "label".into(), files: Files::Pictures };
    let Imported::Row(row) =
        Images::open(directory.path(), options).unwrap().next().unwrap().unwrap()
    else {
        panic!("the first line is a row");
    };
    let want = json!({"label": "dog", "age": 3, "picture": "b/2.png"});
    assert_eq!((row.index, Value::Object(row.fields)), (1, want));
}

#[test]
fn long_lines_are_passed_over() {
    let long = format!("{{\"file_name\": \"{}\"}}\n", "a".repeat(3 << 20));
    let lines = format!("{long}{{\"file_name\": \"1.png\", \"label\": \"cat\"}}");
    let directory = tree(&[("metadata.jsonl", &lines), ("1.png", "")]);
    let want = ["malformed: the line has more than 1 MiB; shorten it", "1.png cat"];
    assert_eq!(told(directory.path()), want);
}

#[test]
#[cfg(unix)]
fn links_that_leave_the_root_are_refused() {
    use std::os::unix::fs::symlink;
    let outside = tree(&[("secret.png", ""), ("more/x.png", "")]);
    let directory = tree(&[("cat/1.png", "")]);
    let cat = directory.path().join("cat");
    symlink(outside.path().join("secret.png"), cat.join("2.png")).unwrap();
    symlink(outside.path().join("more"), cat.join("3")).unwrap();
    symlink("..", cat.join("4")).unwrap();
    symlink("1.png", cat.join("5.png")).unwrap();
    let refused = "malformed: is a link that leads out of the directory, to a directory or nowhere; copy what is meant";
    assert_eq!(
        told(directory.path()),
        ["cat/1.png cat", refused, refused, refused, "cat/5.png cat"]
    );
}
