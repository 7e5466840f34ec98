//! MobileNetV2 (Sandler et al. 2018), as transformers' `MobileNetV2ForImageClassification`.
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
use crate::model::parts::convolution::{Padding, Window};
use crate::model::parts::dropout::Dropout;
use crate::model::parts::linear::Linear;
use crate::model::parts::onnx;
use crate::onnx::graph::{Graph, Value};

/// Share of the newest batch in the running statistics: torchvision's. transformers hands TensorFlow's
/// decay of 0.997 to PyTorch, where it means the opposite, so that a model is evaluated with the
/// statistics of its last batch alone.
const MOMENTUM: f64 = 0.1;
/// Channels before the multiplier: of the stem's output, then of each block's.
const CHANNELS: [i64; 17] =
    [16, 24, 24, 32, 32, 32, 64, 64, 64, 64, 96, 96, 96, 160, 160, 160, 320];
/// Strides of the blocks.
const STRIDES: [i64; 16] = [2, 1, 2, 1, 1, 2, 1, 1, 1, 1, 1, 1, 2, 1, 1, 1];
/// Channels before the multiplier: of the first convolution, and of the last.
const ENDS: [i64; 2] = [32, 1280];

/// A stem, inverted residual blocks, a last convolution and a classifier.
#[derive(Debug)]
pub struct MobileNetV2 {
    stem: Block,
    blocks: Vec<Block>,
    top: Top,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(default)]
struct MobileNetV2Config {
    num_channels: i64,
    depth_multiplier: f64,
    depth_divisible_by: i64,
    min_depth: i64,
    expand_ratio: f64,
    output_stride: i64,
    first_layer_is_expansion: bool,
    finegrained_output: bool,
    hidden_act: String,
    tf_padding: bool,
    classifier_dropout_prob: f64,
    layer_norm_eps: f64,
}

/// Defaults of transformers' `MobileNetV2Config`.
impl Default for MobileNetV2Config {
    fn default() -> Self {
        Self {
            num_channels: 3,
            depth_multiplier: 1.0,
            depth_divisible_by: 8,
            min_depth: 8,
            expand_ratio: 6.0,
            output_stride: 32,
            first_layer_is_expansion: true,
            finegrained_output: true,
            hidden_act: "relu6".into(),
            tf_padding: true,
            classifier_dropout_prob: 0.8,
            layer_norm_eps: 0.001,
        }
    }
}

/// Convolutions one after another, with a connection around them where the shapes allow it.
#[derive(Debug)]
struct Block {
    layers: Vec<ConvLayer>,
    residual: bool,
}
module!(Block: layers);

/// What comes after the last block.
#[derive(Debug)]
struct Top {
    convolution: ConvLayer,
    classifier: Linear,
    dropout: f64,
}
module!(Top: convolution, classifier);

/// Reads a MobileNetV2 for so many classes.
pub fn load(loader: &Loader<'_>, classes: i64) -> Result<MobileNetV2, ModelError> {
    let config: MobileNetV2Config = loader.config.of_family()?;
    config.check(loader)?;
    let activation = Activation::by_name(&config.hidden_act)
        .map_err(|detail| loader.config.unsupported(detail))?;
    let parts = Parts { loader, config: &config, activation };
    let channels = CHANNELS.map(|channels| config.multiplied(channels));
    let wide = config.multiplied(ENDS[0]);

    let stem = "mobilenet_v2.conv_stem";
    let first = config.window(3, 2, 1);
    let mut layers =
        vec![parts.layer(&format!("{stem}.first_conv"), [wide, config.num_channels], first)?];
    if !config.first_layer_is_expansion {
        let name = format!("{stem}.expand_1x1");
        layers.push(parts.layer(&name, [wide, wide], config.window(1, 1, 1))?);
    }
    layers.extend(parts.depthwise(stem, wide, channels[0], [1, 1])?);
    let stem = Block { layers, residual: false };

    let mut blocks = Vec::with_capacity(STRIDES.len());
    let (mut reached, mut dilation) = (2, 1);
    for (index, stride) in STRIDES.into_iter().enumerate() {
        let (inputs, outputs) = (channels[index], channels[index + 1]);
        // At the output stride, pictures get no smaller; kernels get wider instead.
        let (stride, wider) = if reached == config.output_stride {
            let now = dilation;
            dilation *= stride;
            (1, now)
        } else {
            reached *= stride;
            (stride, 1)
        };
        let name = format!("mobilenet_v2.layer.{index}");
        let wide = config.divisible(rounded(inputs as f64 * config.expand_ratio));
        let expand = format!("{name}.expand_1x1");
        let mut layers = vec![parts.layer(&expand, [wide, inputs], config.window(1, 1, 1))?];
        layers.extend(parts.depthwise(&name, wide, outputs, [stride, wider])?);
        blocks.push(Block { layers, residual: stride == 1 && inputs == outputs });
    }

    let last = if config.finegrained_output && config.depth_multiplier < 1.0 {
        ENDS[1]
    } else {
        config.multiplied(ENDS[1])
    };
    let shape = [last, channels[channels.len() - 1]];
    let top = Top {
        convolution: parts.layer("mobilenet_v2.conv_1x1", shape, config.window(1, 1, 1))?,
        classifier: loader.linear("classifier", [classes, last], true)?,
        dropout: config.classifier_dropout_prob,
    };
    Ok(MobileNetV2 { stem, blocks, top })
}

impl MobileNetV2Config {
    fn check(&self, loader: &Loader<'_>) -> Result<(), ModelError> {
        loader.config.check_sizes(&[
            ("num_channels", self.num_channels),
            ("depth_divisible_by", self.depth_divisible_by),
            ("min_depth", self.min_depth),
        ])?;
        for (name, factor) in
            [("depth_multiplier", self.depth_multiplier), ("expand_ratio", self.expand_ratio)]
        {
            if !(factor > 0.0 && factor <= 100.0) {
                return Err(loader
                    .config
                    .malformed(format!("{name} is {factor}, not within 0 to 100")));
            }
        }
        Ok(())
    }

    fn multiplied(&self, channels: i64) -> i64 {
        self.divisible(rounded(channels as f64 * self.depth_multiplier))
    }

    /// The nearest multiple that is at most a tenth smaller, as TensorFlow's `_make_divisible`.
    fn divisible(&self, value: i64) -> i64 {
        let divisor = self.depth_divisible_by;
        let nearest = (value + divisor / 2) / divisor * divisor;
        let found = nearest.max(self.min_depth);
        if (found as f64) < 0.9 * value as f64 { found + divisor } else { found }
    }

    fn window(&self, kernel: i64, stride: i64, dilation: i64) -> Window {
        let padding = if self.tf_padding {
            Padding::Same
        } else {
            Padding::Each((kernel - 1) / 2 * dilation)
        };
        Window { stride: [stride; 2], dilation, padding, ..Window::square(kernel) }
    }
}

/// To the nearest whole number, halves to the even one, as in Python. Channel counts are small.
fn rounded(value: f64) -> i64 {
    #[expect(clippy::cast_possible_truncation, reason = "checked sizes: far below 2^63")]
    let whole = value.round_ties_even() as i64;
    whole
}

/// Makes layers.
struct Parts<'a> {
    loader: &'a Loader<'a>,
    config: &'a MobileNetV2Config,
    activation: Activation,
}

impl Parts<'_> {
    fn layer(&self, name: &str, shape: [i64; 2], window: Window) -> Result<ConvLayer, ModelError> {
        self.loader.conv_layer(name, shape, window, (self.style(), Some(self.activation)))
    }

    /// A convolution of each channel by itself, then one over channels without an activation.
    fn depthwise(
        &self,
        name: &str,
        wide: i64,
        outputs: i64,
        [stride, dilation]: [i64; 2],
    ) -> Result<[ConvLayer; 2], ModelError> {
        let window = Window { groups: wide, ..self.config.window(3, stride, dilation) };
        let reduce = format!("{name}.reduce_1x1");
        let narrow = self.config.window(1, 1, 1);
        Ok([
            self.layer(&format!("{name}.conv_3x3"), [wide, wide], window)?,
            self.loader.conv_layer(&reduce, [outputs, wide], narrow, (self.style(), None))?,
        ])
    }

    fn style(&self) -> NormStyle {
        NormStyle { momentum: MOMENTUM, eps: self.config.layer_norm_eps }
    }
}

impl Block {
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
        if self.residual {
            hidden = graph.node("Add", &format!("block.{index}"), &[input, &hidden], Vec::new());
        }
        Ok(hidden)
    }

    /// `[B, C, H, W]` → `[B, C', H', W']`.
    fn forward(&self, input: &Tensor, dropout: Dropout) -> Result<Tensor, ModelError> {
        let mut hidden = input.shallow_clone();
        for layer in &self.layers {
            hidden = layer.forward(&hidden, dropout)?;
        }
        Ok(if self.residual { input.f_add(&hidden)? } else { hidden })
    }
}

impl Network for MobileNetV2 {
    fn stages(&self) -> usize {
        self.blocks.len() + 2
    }

    fn stage(&self, index: usize) -> &dyn Module {
        stage_of(index, &self.stem, &self.blocks, &self.top)
    }

    fn stage_mut(&mut self, index: usize) -> &mut dyn Module {
        stage_of_mut(index, &mut self.stem, &mut self.blocks, &mut self.top)
    }

    /// Pixels `[B, C, H, W]` in, logits `[B, classes]` out.
    fn forward(&self, index: usize, input: &Tensor, pass: &Pass) -> Result<Tensor, ModelError> {
        let Some(block) = index.checked_sub(1) else {
            return self.stem.forward(input, pass.dropout);
        };
        if let Some(block) = self.blocks.get(block) {
            return block.forward(input, pass.dropout);
        }
        let pooled = pool(&self.top.convolution.forward(input, pass.dropout)?)?;
        let dropped = pass.dropout.apply(pooled, self.top.dropout)?;
        self.top.classifier.forward(&dropped, pass.dropout)
    }

    fn onnx(&self, graph: &mut Graph) -> Option<Result<(), ModelError>> {
        Some(self.describe(graph))
    }
}

impl MobileNetV2 {
    /// `pixel_values`, f32 `[batch, channels, height, width]`, to `logits`, f32 `[batch, classes]`.
    fn describe(&self, graph: &mut Graph) -> Result<(), ModelError> {
        let Some(first) = self.stem.layers.first() else {
            return Err(ModelError::Pass("the stem has a convolution"));
        };
        let mut hidden = onnx::pixels(graph, &first.convolution);
        for (index, block) in std::iter::once(&self.stem).chain(&self.blocks).enumerate() {
            hidden = block.describe(graph, index, &hidden)?;
        }
        let hidden = onnx::conv_layer(graph, &self.top.convolution, &hidden)?;
        onnx::pooled_logits(graph, &self.top.classifier, &hidden)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn channels_are_those_of_the_published_models() {
        let of = |depth_multiplier: f64| {
            let config = MobileNetV2Config { depth_multiplier, ..MobileNetV2Config::default() };
            [16, 24, 32, 64, 96, 160, 320, 1280].map(|channels| config.multiplied(channels))
        };
        assert_eq!(of(1.0), [16, 24, 32, 64, 96, 160, 320, 1280]);
        assert_eq!(of(1.4), [24, 32, 48, 88, 136, 224, 448, 1792]);
        assert_eq!(of(0.35), [8, 8, 16, 24, 32, 56, 112, 448]);
    }
}
