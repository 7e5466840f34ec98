//! Amounts of resources, in thousandths, so that all of Kubernetes' suffixes are whole numbers.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

/// Amounts by resource name. What is absent is zero.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Amounts(pub BTreeMap<String, i128>);

impl Amounts {
    /// The readable ones of `quantities`, where `wanted` picks their names.
    pub fn of<'a>(
        quantities: impl IntoIterator<Item = (&'a String, &'a Quantity)>,
        wanted: impl Fn(&str) -> bool,
    ) -> Self {
        let readable = |(name, quantity): (&String, &Quantity)| {
            (wanted(name)).then_some(())?;
            Some((name.clone(), thousandths(&quantity.0)?))
        };
        Self(quantities.into_iter().filter_map(readable).collect())
    }

    /// One of them.
    pub fn get(&self, name: &str) -> i128 {
        self.0.get(name).copied().unwrap_or(0)
    }

    /// Whether all are zero.
    pub fn is_zero(&self) -> bool {
        self.0.values().all(|amount| *amount == 0)
    }

    /// Adds `count` times `other`; a negative count takes away.
    pub fn add(&mut self, other: &Self, count: i128) {
        for (name, amount) in &other.0 {
            *self.0.entry(name.clone()).or_default() += amount * count;
        }
    }

    /// How many times `each` fits in here, at most `most`.
    pub fn fit(&self, each: &Self, most: u32) -> u32 {
        let times = each.0.iter().filter(|(_, amount)| **amount > 0);
        let least = times.map(|(name, amount)| self.get(name).max(0) / amount).min();
        least.map_or(most, |least| u32::try_from(least).unwrap_or(u32::MAX).min(most))
    }
}

/// Whether this is a device's resource: `nvidia.com/gpu`, not `cpu` nor `hugepages-2Mi`.
pub fn is_device(name: &str) -> bool {
    name.contains('/') && !name.starts_with("requests.") && !name.starts_with("limits.")
}

/// A quantity in thousandths, rounded up as Kubernetes does
/// (`apimachinery/pkg/api/resource/quantity.go`); none where it is not one.
pub fn thousandths(text: &str) -> Option<i128> {
    let end = text.find(|c: char| !c.is_ascii_digit() && !"+-.".contains(c)).unwrap_or(text.len());
    let (figure, suffix) = text.split_at(end);
    let (whole, fraction) = figure.split_once('.').unwrap_or((figure, ""));
    let power = u32::try_from(fraction.len()).ok().filter(|digits| *digits <= 9)?;
    let digits: i128 = format!("{whole}{fraction}").parse().ok()?;
    let (top, bottom) = factor(suffix)?;
    let bottom = bottom * 10_i128.pow(power);
    let scaled = digits.checked_mul(top)?.checked_mul(1000)?;
    let rest = i128::from(scaled.rem_euclid(bottom) != 0);
    Some(scaled.div_euclid(bottom) + rest)
}

/// A suffix as a fraction.
fn factor(suffix: &str) -> Option<(i128, i128)> {
    let exponent = |digits: &str| {
        let power: i32 = digits.parse().ok()?;
        let scale = 10_i128.checked_pow(power.unsigned_abs()).filter(|_| power.abs() <= 18)?;
        Some(if power < 0 { (1, scale) } else { (scale, 1) })
    };
    Some(match suffix {
        "" => (1, 1),
        "n" => (1, 1_000_000_000),
        "u" => (1, 1_000_000),
        "m" => (1, 1_000),
        "k" => (1_000, 1),
        "M" => (1_000_000, 1),
        "G" => (1_000_000_000, 1),
        "T" => (1_000_000_000_000, 1),
        "P" => (1_000_000_000_000_000, 1),
        "E" => (1_000_000_000_000_000_000, 1),
        "Ki" => (1 << 10, 1),
        "Mi" => (1 << 20, 1),
        "Gi" => (1 << 30, 1),
        "Ti" => (1 << 40, 1),
        "Pi" => (1 << 50, 1),
        "Ei" => (1 << 60, 1),
        other => return exponent(other.strip_prefix(['e', 'E'])?),
    })
}

/// As people write it: `4`, `0.5`, `8Gi`.
pub fn written(thousandths: i128) -> String {
    let gibi = 1000_i128 << 30;
    match thousandths {
        even if even != 0 && even % gibi == 0 => format!("{}Gi", even / gibi),
        whole if whole % 1000 == 0 => (whole / 1000).to_string(),
        milli => format!("{milli}m"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantities_are_read_as_kubernetes_does() {
        for (text, want) in [
            ("4", Some(4_000)),
            ("0.5", Some(500)),
            ("250m", Some(250)),
            ("1500u", Some(2)),
            ("2k", Some(2_000_000)),
            ("1Ki", Some(1_024_000)),
            ("1.5Gi", Some(1_610_612_736_000)),
            ("1e3", Some(1_000_000)),
            ("5E-1", Some(500)),
            ("1E", Some(1_000_000_000_000_000_000_000)),
            ("-1", Some(-1_000)),
            ("", None),
            ("four", None),
            ("1Zi", None),
            ("1e99", None),
        ] {
            assert_eq!(thousandths(text), want, "{text}");
        }
        assert_eq!(written(8_589_934_592_000), "8Gi");
        assert_eq!(written(1_500), "1500m");
    }

    #[test]
    fn a_share_that_is_not_asked_for_limits_nothing() {
        let amounts = |pairs: &[(&str, i128)]| {
            Amounts(pairs.iter().map(|(name, amount)| ((*name).to_owned(), *amount)).collect())
        };
        let node = amounts(&[("a/gpu", 8_000), ("a/nic", 1_000)]);
        assert_eq!(node.fit(&amounts(&[("a/gpu", 3_000)]), 9), 2);
        assert_eq!(node.fit(&amounts(&[("a/gpu", 1_000), ("a/nic", 1_000)]), 9), 1);
        assert_eq!(node.fit(&amounts(&[("a/other", 1_000)]), 9), 0);
        assert_eq!(node.fit(&amounts(&[]), 9), 9);
    }
}
