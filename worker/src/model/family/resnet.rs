//! ResNet (He et al. 2015), as transformers' `ResNetForImageClassification`.
//!
//! Shapes: `B` rows, `C` channels, `H` by `W` pixels.

use serde::Deserialize;
use tch::Tensor;

use crate::model::ModelError;
use crate::model::loader::Loader;
use crate::model::module::{Module, module};
use crate::model::network::{Network, Pass, stage_of, stage_of_mut};
use crate::model::parts::activation::Activation;
use crate::model::parts::conv_layer::{ConvLayer, NormStyle, pool};
use crate::model::parts::convolution::Window;
use crate::model::parts::dropout::Dropout;
use crate::model::parts::linear::Linear;
use crate::model::parts::onnx;
use crate::onnx::graph::{Graph, Setting, Value};

/// PyTorch's defaults of `BatchNorm2d`.
const STYLE: NormStyle = NormStyle { momentum: 0.1, eps: 1e-5 };
/// A bottleneck's inner channels are its outer ones over this.
const REDUCTION: i64 = 4;

/// A stem, residual layers, and a classifier of what is left of the picture.
#[derive(Debug)]
pub struct ResNet {
    stem: ConvLayer,
    layers: Vec<Residual>,
    classifier: Linear,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(default)]
struct ResNetConfig {
    num_channels: i64,
    embedding_size: i64,
    hidden_sizes: Vec<i64>,
    depths: Vec<usize>,
    layer_type: LayerType,
    hidden_act: String,
    downsample_in_first_stage: bool,
    downsample_in_bottleneck: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum LayerType {
    Basic,
    Bottleneck,
}

/// Defaults of transformers' `ResNetConfig`.
impl Default for ResNetConfig {
    fn default() -> Self {
        Self {
            num_channels: 3,
            embedding_size: 64,
            hidden_sizes: vec![256, 512, 1024, 2048],
            depths: vec![3, 4, 6, 3],
            layer_type: LayerType::Bottleneck,
            hidden_act: "relu".into(),
            downsample_in_first_stage: false,
            downsample_in_bottleneck: false,
        }
    }
}

/// Convolutions beside a connection that leaves them out.
#[derive(Debug)]
struct Residual {
    /// Fits what goes around to what comes out.
    shortcut: Option<ConvLayer>,
    layers: Vec<ConvLayer>,
    activation: Activation,
}
module!(Residual: shortcut, layers);

/// Reads a ResNet for so many classes.
pub fn load(loader: &Loader<'_>, classes: i64) -> Result<ResNet, ModelError> {
    let resnet: ResNetConfig = loader.config.of_family()?;
    resnet.check(loader)?;
    let activation = Activation::by_name(&resnet.hidden_act)
        .map_err(|detail| loader.config.unsupported(detail))?;
    let stem = loader.conv_layer(
        "resnet.embedder.embedder",
        [resnet.embedding_size, resnet.num_channels],
        Window { stride: [2; 2], ..Window::square(7) },
        (STYLE, Some(activation)),
    )?;
    let mut layers = Vec::new();
    let mut inputs = resnet.embedding_size;
    for (stage, (outputs, depth)) in resnet.hidden_sizes.iter().zip(&resnet.depths).enumerate() {
        for layer in 0..*depth {
            let halves = layer == 0 && (stage > 0 || resnet.downsample_in_first_stage);
            let name = format!("resnet.encoder.stages.{stage}.layers.{layer}");
            let shape = Shape { inputs, outputs: *outputs, stride: if halves { 2 } else { 1 } };
            // As in transformers, only the first bottleneck of a stage is told where to halve.
            let early = layer == 0 && resnet.downsample_in_bottleneck;
            layers.push(Residual {
                shortcut: shape.shortcut(loader, &name)?,
                layers: match resnet.layer_type {
                    LayerType::Basic => shape.basic(loader, &name)?,
                    LayerType::Bottleneck => shape.bottleneck(loader, &name, early)?,
                },
                activation,
            });
            inputs = *outputs;
        }
    }
    let classifier = loader.linear("classifier.1", [classes, inputs], true)?;
    Ok(ResNet { stem, layers, classifier })
}

impl ResNetConfig {
    fn check(&self, loader: &Loader<'_>) -> Result<(), ModelError> {
        if self.hidden_sizes.is_empty() || self.hidden_sizes.len() != self.depths.len() {
            return Err(loader
                .config
                .malformed("hidden_sizes and depths must be of one length, above 0".into()));
        }
        loader.config.check_sizes(&[
            ("num_channels", self.num_channels),
            ("embedding_size", self.embedding_size),
            ("hidden_sizes", self.hidden_sizes.iter().copied().min().unwrap_or(0)),
            ("depths", i64::from(self.depths.iter().all(|depth| *depth > 0))),
        ])
    }
}

/// Channels and stride of a residual layer.
#[derive(Clone, Copy)]
struct Shape {
    inputs: i64,
    outputs: i64,
    stride: i64,
}

impl Shape {
    fn shortcut(self, loader: &Loader<'_>, name: &str) -> Result<Option<ConvLayer>, ModelError> {
        if self.inputs == self.outputs && self.stride == 1 {
            return Ok(None);
        }
        let window = Window { stride: [self.stride; 2], ..Window::square(1) };
        let (name, shape) = (format!("{name}.shortcut"), [self.outputs, self.inputs]);
        loader.conv_layer(&name, shape, window, (STYLE, None)).map(Some)
    }

    fn basic(self, loader: &Loader<'_>, name: &str) -> Result<Vec<ConvLayer>, ModelError> {
        let Self { inputs, outputs, stride } = self;
        chain(loader, name, &[([outputs, inputs], 3, stride), ([outputs, outputs], 3, 1)])
    }

    /// The stride is that of the middle convolution, or of the first where it is taken `early`.
    fn bottleneck(
        self,
        loader: &Loader<'_>,
        name: &str,
        early: bool,
    ) -> Result<Vec<ConvLayer>, ModelError> {
        let Self { inputs, outputs, stride } = self;
        let inner = outputs / REDUCTION;
        let (first, middle) = if early { (stride, 1) } else { (1, stride) };
        let parts =
            [([inner, inputs], 1, first), ([inner, inner], 3, middle), ([outputs, inner], 1, 1)];
        chain(loader, name, &parts)
    }
}

/// Convolutions of these channels, kernels and strides. The last has no activation, the others
/// always ReLU, whatever the configuration says, as in transformers.
fn chain(
    loader: &Loader<'_>,
    name: &str,
    parts: &[([i64; 2], i64, i64)],
) -> Result<Vec<ConvLayer>, ModelError> {
    let layers = parts.iter().enumerate().map(|(index, (shape, kernel, stride))| {
        let window = Window { stride: [*stride; 2], ..Window::square(*kernel) };
        let activation = (index + 1 < parts.len()).then_some(Activation::Relu);
        loader.conv_layer(&format!("{name}.layer.{index}"), *shape, window, (STYLE, activation))
    });
    layers.collect()
}

impl Residual {
    fn describe(
        &self,
        graph: &mut Graph,
        index: usize,
        input: &Value,
    ) -> Result<Value, ModelError> {
        let mut hidden = input.clone();
        for layer in &self.layers {
            hidden = onnx::conv_layer(graph, layer, &hidden)?;
        }
        let around = match &self.shortcut {
            Some(shortcut) => onnx::conv_layer(graph, shortcut, input)?,
            None => input.clone(),
        };
        let name = format!("layer.{index}");
        let sum = graph.node("Add", &format!("{name}.sum"), &[&hidden, &around], Vec::new());
        Ok(onnx::activate(graph, self.activation, &name, &sum))
    }

    /// `[B, C, H, W]` → `[B, C', H', W']`.
    fn forward(&self, input: &Tensor, dropout: Dropout) -> Result<Tensor, ModelError> {
        let mut hidden = input.shallow_clone();
        for layer in &self.layers {
            hidden = layer.forward(&hidden, dropout)?;
        }
        let around = match &self.shortcut {
            Some(shortcut) => shortcut.forward(input, dropout)?,
            None => input.shallow_clone(),
        };
        self.activation.forward(&hidden.f_add(&around)?)
    }
}

impl Network for ResNet {
    fn stages(&self) -> usize {
        self.layers.len() + 2
    }

    fn stage(&self, index: usize) -> &dyn Module {
        stage_of(index, &self.stem, &self.layers, &self.classifier)
    }

    fn stage_mut(&mut self, index: usize) -> &mut dyn Module {
        stage_of_mut(index, &mut self.stem, &mut self.layers, &mut self.classifier)
    }

    /// Pixels `[B, C, H, W]` in, logits `[B, classes]` out.
    fn forward(&self, index: usize, input: &Tensor, pass: &Pass) -> Result<Tensor, ModelError> {
        let Some(layer) = index.checked_sub(1) else {
            let hidden = self.stem.forward(input, pass.dropout)?;
            return Ok(hidden.f_max_pool2d([3, 3], [2, 2], [1, 1], [1, 1], false)?);
        };
        match self.layers.get(layer) {
            Some(residual) => residual.forward(input, pass.dropout),
            None => self.classifier.forward(&pool(input)?, pass.dropout),
        }
    }

    fn onnx(&self, graph: &mut Graph) -> Option<Result<(), ModelError>> {
        Some(self.describe(graph))
    }
}

impl ResNet {
    /// `pixel_values`, f32 `[batch, channels, height, width]`, to `logits`, f32 `[batch, classes]`.
    fn describe(&self, graph: &mut Graph) -> Result<(), ModelError> {
        let pixels = onnx::pixels(graph, &self.stem.convolution);
        let hidden = onnx::conv_layer(graph, &self.stem, &pixels)?;
        let window = vec![
            Setting::Ints("kernel_shape", vec![3; 2]),
            Setting::Ints("strides", vec![2; 2]),
            Setting::Ints("pads", vec![1; 4]),
        ];
        let mut hidden = graph.node("MaxPool", "stem", &[&hidden], window);
        for (index, residual) in self.layers.iter().enumerate() {
            hidden = residual.describe(graph, index, &hidden)?;
        }
        onnx::pooled_logits(graph, &self.classifier, &hidden)
    }
}
