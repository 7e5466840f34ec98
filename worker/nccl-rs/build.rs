//! Compiles the C++ shim and links it with libtorch.
//!
//! Reads `LIBTORCH` and `HEARTH_GLOO_INCLUDE`, both set by
//! `eval "$(tests/setup/libtorch.sh)"`.

use std::env;
use std::path::PathBuf;

/// Each includes the sources that share its headers.
const UNITS: [&str; 2] = ["cpp/unit_c10d.cpp", "cpp/unit_aten.cpp"];

/// The directory that `variable` names, which must hold `probe`.
fn directory(variable: &str, probe: &str) -> Result<PathBuf, String> {
    println!("cargo:rerun-if-env-changed={variable}");
    let advice = "run: eval \"$(tests/setup/libtorch.sh)\"";
    let value = env::var_os(variable).ok_or(format!("{variable} is not set; {advice}"))?;
    let path = PathBuf::from(value);
    if path.join(probe).exists() {
        return Ok(path);
    }
    Err(format!("{variable} is {}, which has no {probe}; {advice}", path.display()))
}

/// Whether this build is clippy's, which links nothing and, since it has build
/// directories of its own, would have everything compiled a second time.
fn only_linted() -> bool {
    println!("cargo:rerun-if-env-changed=RUSTC_WORKSPACE_WRAPPER");
    env::var("RUSTC_WORKSPACE_WRAPPER").is_ok_and(|wrapper| wrapper.contains("clippy-driver"))
}

fn main() -> Result<(), String> {
    let libtorch = directory("LIBTORCH", "lib/libtorch_cpu.so")?;
    let gloo = directory("HEARTH_GLOO_INCLUDE", "gloo/context.h")?;
    println!("cargo:rerun-if-changed=cpp");
    if only_linted() {
        return Ok(());
    }

    cc::Build::new()
        .cpp(true)
        .std("c++20")
        .opt_level(2)
        .debug(false)
        .flag("-ftree-vectorize")
        // at::parallel_for is a plain loop without it.
        .flag("-fopenmp")
        // System headers, because libtorch's warn about themselves.
        .flag("-isystem")
        .flag(libtorch.join("include"))
        .flag("-isystem")
        .flag(libtorch.join("include/torch/csrc/api/include"))
        .flag("-isystem")
        .flag(&gloo)
        .define("USE_C10D_GLOO", None)
        .files(UNITS)
        .compile("hearth_nccl_shim");

    println!("cargo:rustc-link-search=native={}", libtorch.join("lib").display());
    println!("cargo:rustc-link-lib=dylib=torch_cpu");
    println!("cargo:rustc-link-lib=dylib=c10");
    // The one that libtorch brings, by its name.
    println!("cargo:rustc-link-lib=dylib=gomp");
    Ok(())
}
