//! All of it once more, against Valkey.

use std::path::Path;
use std::process::Command;

use crate::server::PROGRAM;

#[test]
fn valkey_serves_as_redis_does() {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/setup/valkey.sh");
    let fetched = Command::new(script).output().unwrap();
    assert!(fetched.status.success(), "{}", String::from_utf8_lossy(&fetched.stderr));
    let server = String::from_utf8(fetched.stdout).unwrap();
    let again = Command::new(std::env::current_exe().unwrap())
        .args(["faults::", "load::", "lookup::"])
        .env(PROGRAM, server.trim())
        .output()
        .unwrap();
    let told = String::from_utf8_lossy(&again.stdout);
    assert!(again.status.success(), "{told}{}", String::from_utf8_lossy(&again.stderr));
    let passed = told.matches(" ... ok\n").count();
    assert!(passed >= 20, "only {passed} tests ran:\n{told}");
    println!("{passed} tests passed against {}", server.trim());
}
