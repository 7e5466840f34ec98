//! Tensors by name: first values, a safetensors file, and back.

use std::collections::{BTreeMap, HashMap};

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::RngCore as _;
use safetensors::tensor::{Dtype, SafeTensors, TensorView, serialize};
use tch::{Kind, TchError, Tensor};

use crate::model::{Parameter, Role};

/// What is wrong with a network.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NetworkError {
    /// libtorch refuses.
    #[error(transparent)]
    Torch(#[from] TchError),
    /// Tensors that are none of this network, or a file that holds none.
    #[error("{0}")]
    Weights(String),
}

/// How a tensor begins.
#[derive(Clone, Copy)]
pub(super) enum Start {
    /// Evenly distributed between minus and plus this.
    Uniform(f64),
    /// The same, but for so many last rows, which are 0.
    UniformBut(f64, i64),
    /// All alike.
    Constant(f32),
}

/// Where a network's tensors come from.
pub(super) enum Source {
    /// Drawn.
    Drawn(Box<ChaCha8Rng>),
    /// Read.
    Read(BTreeMap<String, Tensor>),
}

/// Makes a network's tensors, and keeps them in the order in which they were made.
pub(super) struct Maker {
    source: Source,
    made: Vec<Parameter>,
}

impl Maker {
    pub(super) fn new(source: Source) -> Self {
        Self { source, made: Vec::new() }
    }

    /// The tensor of that name and shape.
    pub(super) fn tensor(
        &mut self,
        name: &str,
        shape: &[i64],
        (start, role): (Start, Role),
    ) -> Result<Tensor, NetworkError> {
        let tensor = match &mut self.source {
            Source::Drawn(random) => Tensor::f_from_slice(&drawn(random, shape, start))?
                .f_view(shape)?
                .f_set_requires_grad(true)?,
            Source::Read(known) => {
                let tensor = known.remove(name).ok_or_else(|| {
                    NetworkError::Weights(format!(
                        "the tensor {name} is missing; was the file written completely?"
                    ))
                })?;
                if tensor.size() != shape || tensor.kind() != Kind::Float {
                    return Err(NetworkError::Weights(format!(
                        "the tensor {name} is {:?} of the shape {:?}, and config.json asks for Float of {shape:?}",
                        tensor.kind(),
                        tensor.size()
                    )));
                }
                tensor
            }
        };
        let (name, tensor_of_all) = (name.to_owned(), tensor.shallow_clone());
        self.made.push(Parameter { name, tensor: tensor_of_all, role, stage: 0 });
        Ok(tensor)
    }

    /// All tensors.
    ///
    /// # Errors
    ///
    /// Tensors that were read and are none of the network's.
    pub(super) fn finish(self) -> Result<Vec<Parameter>, NetworkError> {
        if let Source::Read(left) = &self.source
            && let Some(name) = left.keys().next()
        {
            let detail =
                format!("the tensor {name} is none of the network that config.json tells of");
            return Err(NetworkError::Weights(detail));
        }
        Ok(self.made)
    }
}

/// First values.
fn drawn(random: &mut ChaCha8Rng, shape: &[i64], start: Start) -> Vec<f32> {
    let count = shape.iter().product::<i64>();
    let rows = shape.first().copied().unwrap_or(1).max(1);
    let (bound, zeros) = match start {
        Start::Constant(value) => return vec![value; usize::try_from(count).unwrap_or(0)],
        Start::Uniform(bound) => (bound, 0),
        Start::UniformBut(bound, last) => (bound, last * (count / rows)),
    };
    let mut one = |place: i64| {
        if place >= count - zeros {
            return 0.0;
        }
        let unit = f64::from(random.next_u32()) / f64::from(u32::MAX);
        #[expect(clippy::cast_possible_truncation, reason = "networks have 32 bits")]
        let value = (bound * (2.0 * unit - 1.0)) as f32;
        value
    };
    (0..count).map(&mut one).collect()
}

/// A tensor's values.
pub(super) fn values(tensor: &Tensor) -> Result<Vec<f32>, TchError> {
    Vec::try_from(&tensor.f_detach()?.f_contiguous()?.f_view([-1])?)
}

/// A safetensors file with a note; the same bytes for the same tensors.
pub(super) fn pack(
    tensors: &[(String, Tensor)],
    (key, note): (&str, &str),
) -> Result<Vec<u8>, NetworkError> {
    let mut bytes = Vec::with_capacity(tensors.len());
    for (name, tensor) in tensors {
        let shape: Vec<usize> =
            tensor.size().iter().map(|size| usize::try_from(*size).unwrap_or(0)).collect();
        let of: Vec<u8> = values(tensor)?.iter().flat_map(|value| value.to_le_bytes()).collect();
        bytes.push((name, shape, of));
    }
    let wrong = |error: safetensors::SafeTensorError| NetworkError::Weights(error.to_string());
    let views = bytes.iter().map(|(name, shape, of)| {
        Ok((name.as_str(), TensorView::new(Dtype::F32, shape.clone(), of).map_err(wrong)?))
    });
    let views: Vec<_> = views.collect::<Result<_, NetworkError>>()?;
    let notes = HashMap::from([(key.to_owned(), note.to_owned())]);
    serialize(views, Some(notes)).map_err(wrong)
}

/// The tensors of a safetensors file, all of 32 bits, and its note of that key.
pub(super) fn unpack(
    bytes: &[u8],
    key: &str,
) -> Result<(BTreeMap<String, Tensor>, Option<String>), NetworkError> {
    let cut = |error: safetensors::SafeTensorError| {
        NetworkError::Weights(format!("it is no whole safetensors file: {error}"))
    };
    let (_, header) = SafeTensors::read_metadata(bytes).map_err(cut)?;
    let note = header.metadata().as_ref().and_then(|notes| notes.get(key).cloned());
    let mut tensors = BTreeMap::new();
    for (name, view) in SafeTensors::deserialize(bytes).map_err(cut)?.tensors() {
        if view.dtype() != Dtype::F32 {
            let detail = format!("the tensor {name} is {:?}, not F32", view.dtype());
            return Err(NetworkError::Weights(detail));
        }
        let shape: Vec<i64> =
            view.shape().iter().map(|size| i64::try_from(*size).unwrap_or(i64::MAX)).collect();
        tensors.insert(name, Tensor::f_from_data_size(view.data(), &shape, Kind::Float)?);
    }
    Ok((tensors, note))
}
