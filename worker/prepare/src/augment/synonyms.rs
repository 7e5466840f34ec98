//! Words that mean the same.

use std::collections::{BTreeSet, HashMap};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// WordNet's files of sets, by parts of speech. Its `index` files say where in them a word is,
/// which reading them whole makes needless.
const WORDNET: [&str; 4] = ["data.noun", "data.verb", "data.adj", "data.adv"];

/// Why synonyms cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum SynonymsError {
    /// A file that cannot be read.
    #[error("cannot read synonyms of {}", path.display())]
    Read {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A line that is none of WordNet's.
    #[error("{}, line {line}: no set of WordNet's", path.display())]
    WordNet {
        /// In which file.
        path: PathBuf,
        /// Which, from 1.
        line: usize,
    },
    /// No two words mean the same.
    #[error("{} has no synonyms", path.display())]
    Empty {
        /// Which file or directory.
        path: PathBuf,
    },
}

/// Words that mean the same, by word. Letters are compared in lower case.
#[derive(Clone, Debug, Default)]
pub struct Synonyms {
    /// Others that mean the same, in the order of the alphabet.
    of: HashMap<String, Vec<String>>,
    longest: usize,
}

impl Synonyms {
    /// Reads a file of sets, one a line, with tabs between its words; or, of a directory, WordNet's
    /// files (`data.noun`, `data.verb`, `data.adj`, `data.adv`; format: `wndb(5WN)`), of which some
    /// may be missing.
    ///
    /// # Errors
    ///
    /// What cannot be read, is no WordNet, or has no two words that mean the same.
    pub fn load(path: &Path) -> Result<Self, SynonymsError> {
        let sets = if path.is_dir() { wordnet(path)? } else { lines(path)? };
        let synonyms = Self::new(&sets);
        if synonyms.of.is_empty() {
            return Err(SynonymsError::Empty { path: path.to_owned() });
        }
        Ok(synonyms)
    }

    fn new(sets: &[Vec<String>]) -> Self {
        let mut of: HashMap<String, BTreeSet<String>> = HashMap::new();
        for set in sets.iter().filter(|set| set.len() > 1) {
            for word in set {
                let others = set.iter().filter(|other| other.to_lowercase() != word.to_lowercase());
                of.entry(word.to_lowercase()).or_default().extend(others.cloned());
            }
        }
        let others = of.into_iter().filter(|(_, others)| !others.is_empty());
        let of: HashMap<_, Vec<_>> =
            others.map(|(word, others)| (word, others.into_iter().collect())).collect();
        let longest = of.keys().map(|word| word.chars().count()).max().unwrap_or(0);
        Self { of, longest }
    }

    /// Others that mean the same as `word`, in the order of the alphabet; none, where it is not
    /// known.
    pub fn of(&self, word: &str) -> &[String] {
        self.of.get(&word.to_lowercase()).map_or(&[], Vec::as_slice)
    }

    /// Characters of the longest word.
    pub fn longest(&self) -> usize {
        self.longest
    }
}

/// The files that are read of a source of synonyms.
pub fn files(path: &Path) -> Vec<PathBuf> {
    if !path.is_dir() {
        return vec![path.to_owned()];
    }
    WORDNET.map(|name| path.join(name)).into_iter().filter(|path| path.exists()).collect()
}

fn lines(path: &Path) -> Result<Vec<Vec<String>>, SynonymsError> {
    let text = read(path)?;
    let words = |line: &str| {
        let words = line.split('\t').map(str::trim).filter(|word| !word.is_empty());
        words.map(str::to_owned).collect()
    };
    Ok(text.lines().map(words).collect())
}

fn wordnet(directory: &Path) -> Result<Vec<Vec<String>>, SynonymsError> {
    let mut sets = Vec::new();
    for path in files(directory) {
        for (number, line) in read(&path)?.lines().enumerate() {
            // The licence stands before the sets, indented.
            if line.starts_with(' ') || line.is_empty() {
                continue;
            }
            let set = wordnet_set(line);
            sets.push(set.ok_or(SynonymsError::WordNet { path: path.clone(), line: number + 1 })?);
        }
    }
    Ok(sets)
}

/// The words of a line `offset file type count word id word id ...`, of which the count is
/// hexadecimal. Words have `_` for spaces, and adjectives may end with a marker in parentheses.
fn wordnet_set(line: &str) -> Option<Vec<String>> {
    let mut fields = line.split(' ').skip(3);
    let count = usize::from_str_radix(fields.next()?, 16).ok()?;
    let words: Vec<String> = fields
        .step_by(2)
        .take(count)
        .map(|word| word.split('(').next().unwrap_or(word).replace('_', " "))
        .collect();
    (words.len() == count && count > 0).then_some(words)
}

fn read(path: &Path) -> Result<String, SynonymsError> {
    fs::read_to_string(path).map_err(|source| SynonymsError::Read { path: path.to_owned(), source })
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "nothing but the test reads the files")]
mod tests {
    use super::*;

    const NOUNS: &str = "  1 This software and database is being provided to you\n\
        02958343 06 n 03 car 0 auto 0 automobile 0 001 @ 03791235 n 0000 | a motor vehicle\n\
        08249207 14 n 02 motor_pool 0 Car_pool 1 000 | vehicles\n\
        00001740 03 n 01 entity 0 000 | that which is\n";
    const ADJECTIVES: &str = "00013887 00 a 02 galore(ip) 0 abounding 0 000 | in great numbers\n";

    #[test]
    fn wordnet_is_read() {
        let directory = tempfile::tempdir().unwrap();
        fs::write(directory.path().join("data.noun"), NOUNS).unwrap();
        fs::write(directory.path().join("data.adj"), ADJECTIVES).unwrap();
        let synonyms = Synonyms::load(directory.path()).unwrap();
        assert_eq!(synonyms.of("Car"), ["auto", "automobile"]);
        assert_eq!(synonyms.of("motor pool"), ["Car pool"]);
        assert_eq!(synonyms.of("abounding"), ["galore"]);
        assert!(synonyms.of("entity").is_empty());
    }

    #[test]
    fn a_file_of_sets_is_read() {
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(file.path(), "quick\tfast\t rapid \n\nalone\nfast\tfirm\n开心\t高兴\n").unwrap();
        let synonyms = Synonyms::load(file.path()).unwrap();
        assert_eq!(synonyms.of("fast"), ["firm", "quick", "rapid"]);
        assert_eq!(synonyms.of("高兴"), ["开心"]);
        assert!(synonyms.of("alone").is_empty());
        assert_eq!(synonyms.longest(), 5);
    }

    #[test]
    fn what_cannot_be_used_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("data.verb");
        let error = |path: &Path| Synonyms::load(path).unwrap_err().to_string();
        assert!(error(directory.path()).ends_with("has no synonyms"));
        assert!(error(&path).starts_with("cannot read synonyms of"));
        fs::write(&path, "00001740 29 v zz breathe 0\n").unwrap();
        assert!(error(directory.path()).ends_with("data.verb, line 1: no set of WordNet's"));
    }
}
