//! Cleaning steps, the same in training, in the gate and in serving.

use hearth_crds::training_job::CleanStep;

/// Applies `steps` in order.
pub fn clean(text: &str, steps: &[CleanStep]) -> String {
    steps.iter().fold(text.to_owned(), |text, step| match step {
        CleanStep::StripControl => {
            text.chars().filter(|c| !c.is_control() || matches!(c, '\t' | '\n')).collect()
        }
        CleanStep::StripSpecial => {
            text.chars().filter(|c| c.is_alphanumeric() || *c == '_' || c.is_whitespace()).collect()
        }
        CleanStep::CollapseWhitespace => text.split_whitespace().collect::<Vec<_>>().join(" "),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_step_does_what_its_documentation_says() {
        for (steps, text, want) in [
            (vec![CleanStep::StripControl], "a\u{0}b\tc\r\nd\u{7f}", "ab\tc\nd"),
            (vec![CleanStep::StripSpecial], "Win $$$, now_ü 1!", "Win  now_ü 1"),
            (vec![CleanStep::CollapseWhitespace], "  a \n\t b ", "a b"),
            (
                vec![CleanStep::StripSpecial, CleanStep::CollapseWhitespace],
                "Win $$$ now!",
                "Win now",
            ),
            (vec![], " as it is ", " as it is "),
        ] {
            assert_eq!(clean(text, &steps), want, "{steps:?}");
        }
    }
}
