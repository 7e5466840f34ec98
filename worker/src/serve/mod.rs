//! Placeholder: filled by the next commit.

/// Runs `hearth-worker serve`; the process's exit code.
pub fn run(_config: &std::path::Path) -> i32 {
    70
}
