//! `hearth-worker cache`: a copy of a model on the node that serves it, made once.
//!
//! It runs before the server of each pod. [`source`] names the model by its files, [`entry`] copies
//! and checks them, [`room`] lets old models go, [`lock`] keeps pods out of each other's way. In the
//! claim:
//!
//! ```text
//! KEY/           a model's files; it has this name once it is whole
//! KEY.lock       held shared by who uses the model, alone by who removes it
//! lock           held by who copies or removes
//! .KEY.WHAT-PID  a copy on its way, or what is on its way out
//! ```
//!
//! The server finds its copy by [`hold`]: it may only read here, which is enough to hold a lock.

pub mod entry;
mod error;
pub mod lock;
pub mod room;
pub mod source;

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::{Instant, SystemTime};

use hearth_crds::worker_config::{ExitCode, NodeCacheDirectory, ServeConfig, WorkerResult};

pub use error::CacheError;
use source::ModelFiles;

use crate::termination::{failure, tell};

/// What was done for a model.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It was there, whole.
    Hit,
    /// It was copied, and so many older ones went.
    Copied {
        /// Models that were removed for it.
        removed: usize,
    },
}

/// Runs `hearth-worker cache`; the process's exit code.
pub fn run(config: &Path) -> i32 {
    // A copy that breaks off harms nothing: nobody waits for it.
    let terminate = signal_hook::consts::SIGTERM;
    let at_once = Arc::new(AtomicBool::new(true));
    let code = ExitCode::Terminated as i32;
    if let Err(error) = signal_hook::flag::register_conditional_shutdown(terminate, code, at_once) {
        tracing::warn!(%error, "no handler for SIGTERM");
    }
    match crate::config::read::<ServeConfig>(config)
        .map_err(CacheError::from)
        .and_then(|c| fill(&c))
    {
        Ok(result) => {
            tracing::info!("{}: {}", result.reason, result.message);
            tell(&result)
        }
        Err(error) => {
            let message = error.sentence();
            tracing::error!("{message}");
            tell(&failure(error.reason(), message, error.exit_code() as i32))
        }
    }
}

fn fill(config: &ServeConfig) -> Result<WorkerResult, CacheError> {
    let began = Instant::now();
    let cache = config.node_cache.as_ref().ok_or(CacheError::NotAsked)?;
    let model = find(config)?;
    let outcome = ensure(cache, &model)?;
    let (bytes, seconds) = (model.bytes(), began.elapsed().as_secs_f64());
    let (reason, message) = match outcome {
        Outcome::Hit => (
            "CacheHit",
            format!("the node has the model: {bytes} bytes, checked in {seconds:.1} s; 0 copied"),
        ),
        Outcome::Copied { removed } => {
            let room = if removed > 0 { format!("; {removed} older went") } else { String::new() };
            ("CacheMiss", format!("{bytes} bytes copied to the node in {seconds:.1} s{room}"))
        }
    };
    Ok(WorkerResult { succeeded: true, ..failure(reason, message, ExitCode::Done as i32) })
}

/// The model that a server reads, wherever other models of the same name and time may be.
fn find(config: &ServeConfig) -> Result<ModelFiles, CacheError> {
    let whose = format!("{} {}", config.job.namespace, config.model.display());
    ModelFiles::find(&config.model, &whose)
}

/// Sees to it that the node has the model, whole.
pub fn ensure(cache: &NodeCacheDirectory, model: &ModelFiles) -> Result<Outcome, CacheError> {
    let write = |source| CacheError::Write {
        path: cache.path.join(&model.key),
        claim: cache.claim.clone(),
        source,
    };
    let target = cache.path.join(&model.key);
    // From here on nobody removes it.
    let used = lock::shared(&lock::of_entry(&cache.path, &model.key)).map_err(write)?;
    used.set_modified(SystemTime::now()).map_err(write)?;
    if entry::flaw(&target, model).is_none() {
        return Ok(Outcome::Hit);
    }
    let _alone = lock::alone(&cache.path.join(lock::COPYING)).map_err(write)?;
    // Another pod may have copied it meanwhile.
    let Some(flaw) = entry::flaw(&target, model) else { return Ok(Outcome::Hit) };
    tracing::info!("{flaw}: copies {} bytes from {}", model.bytes(), model.directory.display());
    room::clear(&cache.path, &model.key).map_err(write)?;
    let removed = room::make(cache, model)?;
    entry::copy(model, &target, &cache.claim)?;
    Ok(Outcome::Copied { removed })
}

/// The directory that a server reads: the node's copy, as long as the lock is held. Where there is
/// none any more, since it was removed between the end of `hearth-worker cache` and now, the model
/// is read where it lies: slower, and better than no server.
pub fn hold(config: &ServeConfig) -> (PathBuf, Option<File>) {
    let Some(cache) = &config.node_cache else { return (config.model.clone(), None) };
    let held = find(config).map_err(|error| error.sentence()).and_then(|model| {
        let path = lock::of_entry(&cache.path, &model.key);
        let target = cache.path.join(&model.key);
        let used = lock::shared_as_reader(&path).map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => format!("the node has no copy {}", target.display()),
            _ => format!("cannot hold {}: {error}", path.display()),
        })?;
        match entry::flaw_at_a_glance(&target, &model) {
            None => Ok((target, used)),
            Some(flaw) => Err(flaw),
        }
    });
    match held {
        Ok((target, used)) => {
            tracing::info!("the model is read from the node's copy, {}", target.display());
            (target, Some(used))
        }
        Err(why) => {
            let (model, claim) = (config.model.display(), &cache.claim);
            tracing::warn!(
                "{why}: the model is read from {model}, not from the node's copy in the claim {claim}; a new pod would copy it again"
            );
            (config.model.clone(), None)
        }
    }
}

#[cfg(test)]
mod tests;
