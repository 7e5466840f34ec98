//! The operator.

fn main() -> anyhow::Result<()> {
    hearth_operator::cli::main()
}
