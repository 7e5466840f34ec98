//! `card.md`: the card for people.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use hearth_crds::preparation::{ColumnCard, DataCard, LengthCard, MendedColumn};

/// Most lines of a table of labels.
const LABELS: usize = 30;
/// Most malformed rows that are listed.
const MALFORMED: usize = 20;
/// Most columns that are listed.
const COLUMNS: usize = 100;

/// The card as Markdown, whose tables read well in a terminal, too.
pub fn markdown(card: &DataCard) -> String {
    let mut out = format!("# Prepared data {}\n", card.id);
    section(&mut out, "Rows", &["", "rows"], &rows(card));
    if card.conflicting_labels > 0 {
        let _ = writeln!(
            out,
            "\n{} row(s) have the texts of a row before them and another label: look at how they were labelled.",
            card.conflicting_labels
        );
    }
    section(&mut out, "Malformed rows", &["where", "why"], &malformed(card));
    section(&mut out, "Masked", &["kind", "times"], &counts(&card.masked));
    let header = ["column", "put in", "capped", "rows dropped", "what is done"];
    section(&mut out, "Mended columns", &header, &mended(card));
    section(&mut out, "Rows made of training rows", &["by", "rows"], &counts(&card.augmented));
    if !card.augmented.is_empty() {
        out.push_str(
            "\nThey are among the rows for training. samples.json shows some with what they were made of; it holds texts of rows or small pictures, which this card does not.\n",
        );
    }
    section(&mut out, "Rows not made", &["why", "rows"], &counts(&card.not_augmented));
    section(
        &mut out,
        "Labels",
        &["label", "training", "share", "evaluation", "share"],
        &labels(card),
    );
    for (title, unit, counts) in [
        ("Characters of texts", "characters", &card.lengths),
        ("Widths of pictures", "pixels", &card.widths),
        ("Heights of pictures", "pixels", &card.heights),
    ] {
        section(&mut out, title, &[unit, "training", "evaluation", ""], &lengths(counts));
    }
    let header = ["column", "type", "missing", "least", "median", "greatest", "mean", "values"];
    section(&mut out, "Columns of training rows", &header, &columns(card));
    let sources: Vec<_> = card
        .sources
        .iter()
        .map(|source| {
            let hash = source.blake3.get(..16).unwrap_or(&source.blake3);
            vec![source.role.clone(), source.name.clone(), grouped(source.bytes), hash.to_owned()]
        })
        .collect();
    section(&mut out, "Sources", &["for", "file", "bytes", "BLAKE3"], &sources);
    let _ = writeln!(out, "\nSeed {}, format version {}.", card.seed, card.format_version);
    out
}

type Table = Vec<Vec<String>>;

fn rows(card: &DataCard) -> Table {
    let line = |name: &str, count: u64| vec![name.to_owned(), grouped(count)];
    let mut table = vec![line("read", card.rows), line("malformed", card.malformed)];
    table.extend(card.dropped.iter().map(|(reason, count)| line(reason, *count)));
    table.extend(card.augmented.iter().map(|(by, count)| line(&format!("made by {by}"), *count)));
    table.push(line("for training", card.train_rows));
    table.push(line("for evaluation", card.eval_rows));
    table
}

fn malformed(card: &DataCard) -> Table {
    let line = |row: &hearth_crds::preparation::MalformedRow| {
        vec![format!("{}:{}", row.file, row.line), row.reason.clone()]
    };
    let mut table: Table = card.malformed_rows.iter().take(MALFORMED).map(line).collect();
    let more = card.malformed.saturating_sub(table.len() as u64);
    if more > 0 {
        table.push(vec![format!("and {more} more"), String::new()]);
    }
    table
}

fn mended(card: &DataCard) -> Table {
    let line = |(name, column): (&String, &MendedColumn)| {
        let MendedColumn { filled, capped, dropped, rule } = column;
        vec![name.clone(), grouped(*filled), grouped(*capped), grouped(*dropped), rule.clone()]
    };
    card.mended.iter().map(line).collect()
}

fn counts(counts: &BTreeMap<String, u64>) -> Table {
    counts.iter().map(|(name, count)| vec![name.clone(), grouped(*count)]).collect()
}

fn labels(card: &DataCard) -> Table {
    let of = |counts: &BTreeMap<String, u64>, label: &str| counts.get(label).copied().unwrap_or(0);
    let share = |count: u64, all: u64| match all {
        0 => String::new(),
        all => format!("{:.1}%", 100.0 * count as f64 / all as f64),
    };
    let mut names: Vec<&String> = card.labels.keys().collect();
    names.extend(card.eval_labels.keys().filter(|label| !card.labels.contains_key(*label)));
    names.sort_by_key(|label| std::cmp::Reverse(of(&card.labels, label)));
    let line = |label: &&String| {
        let (train, eval) = (of(&card.labels, label), of(&card.eval_labels, label));
        let of_train = share(train, card.train_rows);
        vec![(*label).clone(), grouped(train), of_train, grouped(eval), share(eval, card.eval_rows)]
    };
    let mut table: Table = names.iter().take(LABELS).map(line).collect();
    if names.len() > LABELS {
        let mut last = vec![String::new(); 5];
        last[0] = format!("and {} more", names.len() - LABELS);
        table.push(last);
    }
    table
}

fn lengths(counts: &[LengthCard]) -> Table {
    let most = counts.iter().map(|length| length.train + length.eval).max().unwrap_or(1);
    let bar = |count: u64| {
        let width = (count * 30).div_ceil(most.max(1));
        "#".repeat(usize::try_from(width).unwrap_or(0))
    };
    counts
        .iter()
        .map(|length| {
            vec![
                format!("{} to {}", grouped(length.from), grouped(length.to)),
                grouped(length.train),
                grouped(length.eval),
                bar(length.train + length.eval),
            ]
        })
        .collect()
}

fn columns(card: &DataCard) -> Table {
    let mut table: Table = card.columns.iter().take(COLUMNS).map(column).collect();
    if card.columns.len() > COLUMNS {
        let mut last = vec![String::new(); 8];
        last[0] = format!("and {} more: see card.json", card.columns.len() - COLUMNS);
        table.push(last);
    }
    table
}

fn column(column: &ColumnCard) -> Vec<String> {
    let number = |of: fn(&hearth_crds::preparation::NumbersCard) -> f64| {
        column.numbers.as_ref().map_or_else(String::new, |numbers| short(of(numbers)))
    };
    let mut values: Vec<(&String, &u64)> = column.values.iter().collect();
    values.sort_by_key(|(_, count)| std::cmp::Reverse(**count));
    let values =
        values.iter().take(5).map(|(value, count)| format!("{value} ({})", grouped(**count)));
    let type_ = match (column.type_.as_str(), &column.numbers) {
        ("text", Some(_)) => "text (characters)".to_owned(),
        (other, _) => other.to_owned(),
    };
    vec![
        column.name.clone(),
        type_,
        grouped(column.missing),
        number(|numbers| numbers.min),
        number(|numbers| numbers.median),
        number(|numbers| numbers.max),
        number(|numbers| numbers.mean),
        values.collect::<Vec<_>>().join(", "),
    ]
}

/// Four digits that count.
fn short(number: f64) -> String {
    if number.fract().abs() < f64::EPSILON && number.abs() < 1e15 {
        return format!("{number}");
    }
    let digits = format!("{number:.3e}");
    let plain = digits.parse::<f64>().unwrap_or(number);
    if (1e-4..1e9).contains(&plain.abs()) { format!("{plain}") } else { digits }
}

/// With a comma after every third digit.
fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut out = String::new();
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

fn section(out: &mut String, title: &str, header: &[&str], table: &[Vec<String>]) {
    if table.is_empty() {
        return;
    }
    let clean = |cell: &str| {
        let text: String = cell.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
        text.replace('|', "\\|")
    };
    let header: Vec<String> = header.iter().map(|cell| clean(cell)).collect();
    let table: Table =
        table.iter().map(|row| row.iter().map(|cell| clean(cell)).collect()).collect();
    let width = |column: usize| {
        let cells = table.iter().chain([&header]).map(|row| row[column].chars().count());
        cells.max().unwrap_or(0).max(2)
    };
    let widths: Vec<usize> = (0..header.len()).map(width).collect();
    let numeric: Vec<bool> = (0..header.len())
        .map(|column| {
            column > 0
                && table.iter().all(|row| {
                    !row[column].starts_with(|c: char| c.is_alphabetic() || matches!(c, '#' | '{'))
                })
        })
        .collect();
    let _ = write!(out, "\n## {title}\n\n");
    let mut line = |cells: &[String]| {
        for (column, cell) in cells.iter().enumerate() {
            let room = " ".repeat(widths[column] - cell.chars().count());
            let _ = if numeric[column] {
                write!(out, "| {room}{cell} ")
            } else {
                write!(out, "| {cell}{room} ")
            };
        }
        out.push_str("|\n");
    };
    line(&header);
    let rule = |column: usize| {
        let dashes = "-".repeat(widths[column] - 1);
        if numeric[column] { format!("{dashes}:") } else { format!("{dashes}-") }
    };
    let rules: Vec<String> = (0..header.len()).map(rule).collect();
    line(&rules);
    for row in &table {
        line(row);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_short() {
        for (number, want) in [
            (3.0, "3"),
            (0.123_456, "0.1235"),
            (1234.56, "1235"),
            (1.5e-7, "1.500e-7"),
            (-2.5, "-2.5"),
        ] {
            assert_eq!(short(number), want);
        }
        assert_eq!(
            (grouped(0), grouped(1234), grouped(1_234_567)),
            ("0".into(), "1,234".into(), "1,234,567".into())
        );
    }

    #[test]
    fn a_table_is_aligned_and_a_bar_in_a_cell_does_not_break_it() {
        let mut out = String::new();
        let table =
            vec![vec!["a|b".to_owned(), "10".to_owned()], vec!["c".to_owned(), "7".to_owned()]];
        section(&mut out, "T", &["name", "n"], &table);
        assert_eq!(out, "\n## T\n\n| name |  n |\n| ---- | -: |\n| a\\|b | 10 |\n| c    |  7 |\n");
    }
}
