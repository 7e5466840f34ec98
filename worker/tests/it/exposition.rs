//! OpenMetrics' text format, as strictly as a scraper reads it
//! (<https://prometheus.io/docs/specs/om/open_metrics_spec/>).

use std::collections::{BTreeMap, HashSet};

/// Every sample's value by its name with labels. What breaks the format is an error.
pub(crate) fn parse(text: &str) -> Result<BTreeMap<String, f64>, String> {
    let body = text.strip_suffix("# EOF\n").ok_or("there is no # EOF at the end")?;
    let mut samples = BTreeMap::new();
    let mut families: HashSet<&str> = HashSet::new();
    let mut family = ("", "");
    for line in body.lines() {
        if let Some(described) = line.strip_prefix("# TYPE ") {
            family = described.split_once(' ').ok_or_else(|| line.to_owned())?;
            if !families.insert(family.0) {
                return Err(format!("{} is described twice", family.0));
            }
        } else if !line.starts_with("# HELP ") && !line.starts_with("# UNIT ") {
            let (series, value) = line.rsplit_once(' ').ok_or_else(|| line.to_owned())?;
            let value = value.parse().map_err(|_| format!("{line}: not a number"))?;
            let name = series.split_once('{').map_or(series, |(name, _)| name);
            let suffix = name.strip_prefix(family.0).ok_or_else(|| format!("{line}: no type"))?;
            let allowed: &[&str] = match family.1 {
                "counter" => &["_total"],
                "histogram" => &["_bucket", "_count", "_sum"],
                _ => &[""],
            };
            if !allowed.contains(&suffix) {
                return Err(format!("{line}: not a name of a {}", family.1));
            }
            if samples.insert(series.to_owned(), value).is_some() {
                return Err(format!("{line}: told twice"));
            }
        }
    }
    Ok(samples)
}

#[test]
fn the_parser_sees_what_breaks_the_format() {
    let head = "# HELP a_total Things.\n# TYPE a counter\n";
    assert!(parse(&format!("{head}a_total 1\n# EOF\n")).is_ok());
    for broken in [
        format!("{head}a_total 1\n"),
        format!("{head}a 1\n# EOF\n"),
        format!("{head}a_total one\n# EOF\n"),
        format!("{head}a_total 1\na_total 1\n# EOF\n"),
        format!("{head}a_total 1\n{head}# EOF\n"),
        format!("{head}b 1\n# EOF\n"),
    ] {
        assert!(parse(&broken).is_err(), "{broken}");
    }
}
