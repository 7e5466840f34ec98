//! The groups of ranks along the axes of a layout.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use nccl_rs::{Mesh, ProcessGroup};

use super::layout::{DATA, EXPERT, Layout, PIPELINE, TENSOR};
use crate::error::Error;

/// A group that several parts of a model use, in the order of the program.
pub type SharedGroup = Arc<Mutex<ProcessGroup>>;

/// Joins this rank's group of a name over axes of a grid.
pub type Join<'a> = dyn Fn(&Mesh, &str, &[&str]) -> Result<ProcessGroup, Error> + 'a;

/// Uses a group.
pub fn locked(group: &SharedGroup) -> MutexGuard<'_, ProcessGroup> {
    group.lock().unwrap_or_else(PoisonError::into_inner)
}

/// This rank's groups; none along axes of one rank.
#[derive(Clone, Debug, Default)]
pub struct Groups {
    /// Ranks with different samples.
    pub replicas: Option<SharedGroup>,
    /// Those of them with the same experts.
    pub data: Option<SharedGroup>,
    /// Those of them with different experts.
    pub expert: Option<SharedGroup>,
    /// Ranks that split layers.
    pub tensor: Option<SharedGroup>,
    /// Activations, from stage to stage. Two groups, since messages of one go in order: in one
    /// alone, a rank that sends forward would wait for one that sends backward.
    pub forward: Option<SharedGroup>,
    /// Gradients, from stage to stage.
    pub backward: Option<SharedGroup>,
}

impl Groups {
    /// Joins them. All ranks join the same ones in the same order.
    pub fn join(layout: &Layout, join: &Join<'_>) -> Result<Self, Error> {
        let join = |name: &str, over: &[&str]| -> Result<Option<SharedGroup>, Error> {
            if layout.ranks(over).len() <= 1 {
                return Ok(None);
            }
            Ok(Some(Arc::new(Mutex::new(join(layout.mesh(), name, over)?))))
        };
        let replicas = join("replicas", &[DATA, EXPERT])?;
        let expert = join("expert", &[EXPERT])?;
        let data = if expert.is_none() { replicas.clone() } else { join("data", &[DATA])? };
        Ok(Self {
            replicas,
            data,
            expert,
            tensor: join("tensor", &[TENSOR])?,
            forward: join("forward", &[PIPELINE])?,
            backward: join("backward", &[PIPELINE])?,
        })
    }
}
