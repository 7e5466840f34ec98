//! How many cores this process may count on.

use std::num::NonZeroUsize;

/// `HEARTH_CPUS`, by which the operator and `hearth run` tell what is left for this
/// process where others use the machine too; else the machine's cores, a control
/// group's limit heeded.
pub fn cores() -> NonZeroUsize {
    let all = || std::thread::available_parallelism().unwrap_or(NonZeroUsize::MIN);
    parse(std::env::var("HEARTH_CPUS").ok().as_deref()).unwrap_or_else(all)
}

/// What the first of these variables with a number says, else one a core; 1 at least.
pub fn threads(variables: &[&str]) -> usize {
    let asked = |name: &&str| std::env::var(name).ok()?.parse().ok();
    variables.iter().find_map(asked).unwrap_or_else(|| cores().get()).max(1)
}

/// 0 and what is no number say nothing.
fn parse(asked: Option<&str>) -> Option<NonZeroUsize> {
    asked?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_number_above_0_counts() {
        for (asked, want) in [(None, 0), (Some("2"), 2), (Some("0"), 0), (Some("half"), 0)] {
            assert_eq!(parse(asked).map_or(0, NonZeroUsize::get), want, "{asked:?}");
        }
    }
}
