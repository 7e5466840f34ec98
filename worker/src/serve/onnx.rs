//! A classifier in ONNX Runtime: the model is read by libtorch, written as ONNX in memory,
//! and computed there, once both were seen to agree.

use std::path::PathBuf;

use hearth_crds::model_deployment::ServingRuntime;
use hearth_crds::training_job::Accelerator;
use ort::ep::{self, ExecutionProviderDispatch};
use ort::session::{Session, SessionOutputs};
use ort::value::Tensor as OrtTensor;
use tch::{Device, Tensor};

use super::engine::{Answer, Compute, PictureClassifier, TextClassifier, probabilities};
use crate::data::pictures::normalize;
use crate::data::{PixelFormat, collate};
use crate::model::ModelError;

/// Names the library.
const LIBRARY: &str = "ORT_DYLIB_PATH";
/// What logits may differ by, or by this share of what they are.
const TOLERANCE: f64 = 1e-4;

/// A classifier that ONNX Runtime computes.
#[derive(Debug)]
pub struct OnnxClassifier {
    session: Session,
    pad: u32,
}

/// Where ONNX Runtime computes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// Its library.
    pub library: PathBuf,
    /// Threads of an operator.
    pub threads: usize,
    /// What of it computes.
    pub provider: Provider,
}

/// What computes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Provider {
    /// The CPU.
    Cpu,
    /// A GPU, by ONNX Runtime's own kernels.
    Cuda,
    /// A GPU, by TensorRT where it can, and else as [`Self::Cuda`].
    TensorRt,
}

impl Place {
    /// The place that a configuration asks for; none where libtorch computes.
    pub fn of(
        runtime: ServingRuntime,
        accelerator: Accelerator,
        threads: usize,
    ) -> Result<Option<Self>, ModelError> {
        let provider = match (runtime, accelerator) {
            (ServingRuntime::Libtorch, _) => return Ok(None),
            (ServingRuntime::OnnxRuntime, Accelerator::CPU) => Provider::Cpu,
            (ServingRuntime::OnnxRuntime, Accelerator::CUDA) => Provider::Cuda,
            (ServingRuntime::TensorRT, Accelerator::CUDA) => Provider::TensorRt,
            (ServingRuntime::TensorRT, Accelerator::CPU) => {
                let why = "serving.runtime TensorRT needs a GPU; ask for one in serving.resources.limits, or choose OnnxRuntime";
                return Err(ModelError::Onnx(why.into()));
            }
        };
        let library =
            std::env::var_os(LIBRARY).map_or_else(|| "libonnxruntime.so".into(), PathBuf::from);
        Ok(Some(Self { library, threads, provider }))
    }
}

impl OnnxClassifier {
    /// Has ONNX Runtime compute `model`, if it gives the same logits of these rows as libtorch.
    pub fn new(
        model: &TextClassifier,
        place: &Place,
        samples: &[&[u32]],
    ) -> Result<Self, ModelError> {
        let file = model.classifier.onnx()?;
        let mut own = Self { session: session(&file, place)?, pad: model.pad };
        drop(file);
        agree(samples, |rows| own.logits(rows), |rows| model.logits(rows))?;
        Ok(own)
    }

    /// Logits `[B, C]` of rows.
    pub fn logits(&mut self, rows: &[&[u32]]) -> Result<Tensor, ModelError> {
        let batch = collate(rows, self.pad, Device::Cpu)?;
        let shape = batch.input_ids.size();
        let mask = match batch.attention_mask {
            Some(mask) => mask,
            None => batch.input_ids.f_ones_like()?,
        };
        let input = |tensor: &Tensor| -> Result<OrtTensor<i64>, ModelError> {
            let numbers = Vec::<i64>::try_from(&tensor.f_reshape([-1i64])?)?;
            Ok(OrtTensor::from_array((shape.clone(), numbers))?)
        };
        let (ids, mask) = (input(&batch.input_ids)?, input(&mask)?);
        let outputs =
            self.session.run(ort::inputs! { "input_ids" => ids, "attention_mask" => mask })?;
        logits_of(&outputs)
    }
}

/// A classifier of pictures that ONNX Runtime computes.
#[derive(Debug)]
pub struct OnnxPictures {
    session: Session,
    format: PixelFormat,
}

impl OnnxPictures {
    /// Has ONNX Runtime compute `model`, if it gives the same logits of these pictures as libtorch.
    pub fn new(
        model: &PictureClassifier,
        place: &Place,
        samples: &[&[u8]],
    ) -> Result<Self, ModelError> {
        let file = model.classifier.onnx()?;
        let mut own = Self { session: session(&file, place)?, format: model.format };
        drop(file);
        agree(samples, |rows| own.logits(rows), |rows| model.logits(rows))?;
        Ok(own)
    }

    /// Logits `[B, C]` of prepared pictures.
    pub fn logits(&mut self, rows: &[&[u8]]) -> Result<Tensor, ModelError> {
        let pixels = normalize(&rows.concat(), rows.len(), self.format, Device::Cpu)?;
        let shape = pixels.size();
        let numbers = Vec::<f32>::try_from(&pixels.f_contiguous()?.f_reshape([-1i64])?)?;
        let pixels = OrtTensor::from_array((shape, numbers))?;
        let outputs = self.session.run(ort::inputs! { "pixel_values" => pixels })?;
        logits_of(&outputs)
    }
}

impl Compute for OnnxPictures {
    type Unit = u8;

    fn answers(&mut self, rows: &[&[u8]]) -> Result<Vec<Answer>, ModelError> {
        probabilities(&self.logits(rows)?)
    }
}

impl Compute for OnnxClassifier {
    type Unit = u32;

    fn answers(&mut self, rows: &[&[u32]]) -> Result<Vec<Answer>, ModelError> {
        probabilities(&self.logits(rows)?)
    }
}

pub(super) fn session(file: &[u8], place: &Place) -> Result<Session, ModelError> {
    let environment = ort::init_from(&place.library).map_err(|error| {
        ModelError::Onnx(format!("{error}; name libonnxruntime.so, 1.24 or later, in {LIBRARY}"))
    })?;
    let environment = environment.with_name("hearth").with_telemetry(false).build()?;
    let session = Session::builder(&environment)?
        .with_intra_threads(place.threads)?
        .with_execution_providers(providers(place.provider))?
        .commit_from_memory(file)?;
    Ok(session)
}

/// A GPU that was asked for and is not there is an error, never a run on the CPU (Invariant 11).
fn providers(provider: Provider) -> Vec<ExecutionProviderDispatch> {
    // Products with a mantissa of 10 bits would not agree with libtorch's.
    let cuda = || ep::CUDA::default().with_tf32(false).build().error_on_failure();
    match provider {
        Provider::Cpu => Vec::new(),
        Provider::Cuda => vec![cuda()],
        Provider::TensorRt => vec![ep::TensorRT::default().build().error_on_failure(), cuda()],
    }
}

/// Compares the logits of samples, one by one and all together.
fn agree<U>(
    samples: &[&[U]],
    mut given: impl FnMut(&[&[U]]) -> Result<Tensor, ModelError>,
    wanted: impl Fn(&[&[U]]) -> Result<Tensor, ModelError>,
) -> Result<(), ModelError> {
    let mut batches = samples.iter().map(std::slice::from_ref).chain([samples]);
    batches.try_for_each(|rows| check(&given(rows)?, &tch::no_grad(|| wanted(rows))?))
}

/// What a run of either model gives.
fn logits_of(outputs: &SessionOutputs<'_>) -> Result<Tensor, ModelError> {
    let (shape, numbers) = outputs["logits"].try_extract_tensor::<f32>()?;
    Ok(Tensor::f_from_slice(numbers)?.f_reshape(&shape[..])?)
}

/// Whether logits or scores are the model's own, `wanted`, but for rounding.
pub(super) fn check(given: &Tensor, wanted: &Tensor) -> Result<(), ModelError> {
    let wanted = wanted.f_to_device(Device::Cpu)?;
    let apart = given.f_sub(&wanted)?.f_abs()?.f_div(&wanted.f_abs()?.f_clamp_min(1.0)?)?;
    let most = apart.f_max()?.f_double_value(&[])?;
    // Not a number is no agreement.
    if most <= TOLERANCE {
        return Ok(());
    }
    Err(ModelError::Onnx(format!(
        "what it computes is {most} apart from the model's own, more than {TOLERANCE}; serve with runtime Libtorch"
    )))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_differs_by_more_than_rounding_is_refused() {
        let tensor = |numbers: &[f32]| Tensor::from_slice(numbers);
        check(&tensor(&[1.0, -300.0]), &tensor(&[1.00005, -300.02])).unwrap();
        for given in [[1.001, 2.0], [f32::NAN, 2.0]] {
            let refused = check(&tensor(&given), &tensor(&[1.0, 2.0])).unwrap_err().to_string();
            assert!(refused.contains("runtime Libtorch"), "{refused}");
        }
    }

    #[test]
    fn a_place_is_what_runtime_and_accelerator_say() {
        let provider = |runtime, accelerator| {
            Place::of(runtime, accelerator, 1).map(|place| place.map(|place| place.provider))
        };
        let (cpu, cuda) = (Accelerator::CPU, Accelerator::CUDA);
        assert_eq!(provider(ServingRuntime::Libtorch, cuda).unwrap(), None);
        assert_eq!(provider(ServingRuntime::OnnxRuntime, cpu).unwrap(), Some(Provider::Cpu));
        assert_eq!(provider(ServingRuntime::OnnxRuntime, cuda).unwrap(), Some(Provider::Cuda));
        assert_eq!(provider(ServingRuntime::TensorRT, cuda).unwrap(), Some(Provider::TensorRt));
        let refused = provider(ServingRuntime::TensorRT, cpu).unwrap_err().to_string();
        assert!(refused.contains("needs a GPU"), "{refused}");
    }
}
