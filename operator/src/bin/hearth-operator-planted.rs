//! The operator with a planted bug, for `tests/faults`; see `planted.rs`.

fn main() -> anyhow::Result<()> {
    hearth_operator::cli::main()
}
