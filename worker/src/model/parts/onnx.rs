//! Parts of networks as operators of ONNX: what each computes without dropout.

use tch::{TchError, Tensor};

use super::activation::Activation;
use super::batch_norm::BatchNorm;
use super::conv_layer::ConvLayer;
use super::convolution::{Convolution, Padding, Window};
use super::linear::{Linear, LinearKind};
use super::norm::LayerNorm;
use crate::model::ModelError;
use crate::model::module::Weight;
use crate::onnx::graph::{Dim, Graph, Numbers, Setting, Value};

/// As [`Linear::forward`].
pub fn linear(graph: &mut Graph, layer: &Linear, input: &Value) -> Result<Value, ModelError> {
    let LinearKind::Dense { weight, bias } = &layer.kind else {
        return Err(ModelError::Pass(
            "ONNX has floats alone: take the model from before its compression, or FP16 or BF16",
        ));
    };
    Ok(product(graph, &layer.name, (weight, bias.as_ref()), input)?)
}

/// `y = x Wᵀ + b` of `weight` `[N, K]` and `bias` `[N]`.
pub fn product(
    graph: &mut Graph,
    name: &str,
    (weight, bias): (&Tensor, Option<&Tensor>),
    input: &Value,
) -> Result<Value, TchError> {
    let turned = graph.floats(&format!("{name}.weight"), &weight.f_transpose(0, 1)?)?;
    let product = graph.node("MatMul", &format!("{name}.product"), &[input, &turned], Vec::new());
    let Some(bias) = bias else { return Ok(product) };
    let bias = graph.floats(&format!("{name}.bias"), bias)?;
    Ok(graph.node("Add", name, &[&product, &bias], Vec::new()))
}

/// Outputs of a classifier's last layer.
pub fn classes(layer: &Linear) -> i64 {
    match &layer.kind {
        LinearKind::Dense { weight, .. } => weight.size().first().copied().unwrap_or_default(),
        LinearKind::Other(_) => 0,
    }
}

/// As [`LayerNorm::forward`].
pub fn layer_norm(graph: &mut Graph, norm: &LayerNorm, input: &Value) -> Result<Value, ModelError> {
    let name = norm.weight.name.trim_end_matches(".weight");
    Ok(normed(graph, name, (&norm.weight.tensor, &norm.bias.tensor, norm.eps), input)?)
}

/// Layer norm over the last dimension, by `weight` and `bias` of its size.
pub fn normed(
    graph: &mut Graph,
    name: &str,
    (weight, bias, eps): (&Tensor, &Tensor, f64),
    input: &Value,
) -> Result<Value, TchError> {
    let scale = graph.floats(&format!("{name}.weight"), weight)?;
    let shift = graph.floats(&format!("{name}.bias"), bias)?;
    let settings = vec![Setting::Int("axis", -1), Setting::Float("epsilon", single(eps))];
    Ok(graph.node("LayerNormalization", name, &[input, &scale, &shift], settings))
}

/// Attention of so many `heads` of one size, `[B, Q, D]`: of queries over keys and values, whose
/// scores `moved` is added to where it is given.
pub fn attention(
    graph: &mut Graph,
    name: &dyn Fn(&str) -> String,
    [query, key, value]: [&Value; 3],
    [heads, size]: [i64; 2],
    moved: Option<&Value>,
) -> Value {
    // 0 keeps a dimension as it is.
    let split = graph.ints(&name("heads"), &[0, 0, heads, size]);
    let mut by_head = |part: &str, flat: &Value, order: [i64; 4]| {
        let cut = graph.node("Reshape", &name(&format!("{part}.cut")), &[flat, &split], Vec::new());
        graph.node("Transpose", &name(part), &[&cut], vec![Setting::Ints("perm", order.into())])
    };
    let query = by_head("query", query, [0, 2, 1, 3]);
    let key = by_head("key", key, [0, 2, 3, 1]);
    let value = by_head("value", value, [0, 2, 1, 3]);
    let scale = graph.float(&name("scale"), single((size as f64).sqrt().recip()));
    let products = graph.node("MatMul", &name("products"), &[&query, &key], Vec::new());
    let mut scores = graph.node("Mul", &name("scaled"), &[&products, &scale], Vec::new());
    if let Some(moved) = moved {
        scores = graph.node("Add", &name("scores"), &[&scores, moved], Vec::new());
    }
    let last = vec![Setting::Int("axis", -1)];
    let shares = graph.node("Softmax", &name("shares"), &[&scores], last);
    let attended = graph.node("MatMul", &name("attended"), &[&shares, &value], Vec::new());
    let order = vec![Setting::Ints("perm", vec![0, 2, 1, 3])];
    let attended = graph.node("Transpose", &name("by_position"), &[&attended], order);
    let width = graph.ints(&name("width"), &[0, 0, heads * size]);
    graph.node("Reshape", &name("joined"), &[&attended, &width], Vec::new())
}

/// `[B, T, D]` → `[B, 1, D]`: the first position.
pub fn first(graph: &mut Graph, name: &dyn Fn(&str) -> String, input: &Value) -> Value {
    let start = graph.ints(&name("first.start"), &[0]);
    let end = graph.ints(&name("first.end"), &[1]);
    // The axis is 1, too.
    graph.node("Slice", &name("first"), &[input, &start, &end, &end], Vec::new())
}

/// As [`ConvLayer::forward`].
pub fn conv_layer(
    graph: &mut Graph,
    layer: &ConvLayer,
    input: &Value,
) -> Result<Value, ModelError> {
    let convolved = convolution(graph, &layer.convolution, input)?;
    let normed = batch_norm(graph, &layer.norm, &convolved)?;
    let name = format!("{}.activation", layer.convolution.weight.name.trim_end_matches(".weight"));
    Ok(match layer.activation {
        Some(activation) => activate(graph, activation, &name, &normed),
        None => normed,
    })
}

/// As [`Convolution::forward`].
pub fn convolution(
    graph: &mut Graph,
    part: &Convolution,
    input: &Value,
) -> Result<Value, ModelError> {
    let weight = constant(graph, &part.weight)?;
    let bias = part.bias.as_ref().map(|bias| constant(graph, bias)).transpose()?;
    let inputs: Vec<&Value> = [input, &weight].into_iter().chain(&bias).collect();
    let name = part.weight.name.trim_end_matches(".weight");
    Ok(graph.node("Conv", name, &inputs, window(&part.window)))
}

fn window(window: &Window) -> Vec<Setting> {
    let Window { kernel, stride, dilation, groups, padding } = *window;
    // Where nothing is left out, TensorFlow's SAME asks for the same zeros at any size.
    let padding = match padding {
        Padding::Same if stride == [1; 2] && kernel[0] == kernel[1] && kernel[0] % 2 == 1 => {
            Padding::Each((kernel[0] - 1) / 2 * dilation)
        }
        other => other,
    };
    let around = match padding {
        Padding::Each(zeros) => Setting::Ints("pads", vec![zeros; 4]),
        Padding::Same => Setting::Text("auto_pad", "SAME_UPPER"),
    };
    vec![
        Setting::Ints("kernel_shape", kernel.into()),
        Setting::Ints("strides", stride.into()),
        Setting::Ints("dilations", vec![dilation; 2]),
        Setting::Int("group", groups),
        around,
    ]
}

fn batch_norm(graph: &mut Graph, norm: &BatchNorm, input: &Value) -> Result<Value, ModelError> {
    let [scale, shift, mean, variance] =
        [&norm.weight, &norm.bias, &norm.running_mean, &norm.running_var]
            .map(|weight| constant(graph, weight));
    let inputs = [input, &scale?, &shift?, &mean?, &variance?];
    let name = norm.weight.name.trim_end_matches(".weight");
    let settings = vec![Setting::Float("epsilon", single(norm.eps))];
    Ok(graph.node("BatchNormalization", name, &inputs, settings))
}

/// The input of a network that begins with `stem` and takes pictures of any size.
pub fn pixels(graph: &mut Graph, stem: &Convolution) -> Value {
    let channels = stem.weight.tensor.size().get(1).copied().unwrap_or_default();
    let shape = [Dim::Any("batch"), Dim::Fixed(channels), Dim::Any("height"), Dim::Any("width")];
    graph.input("pixel_values", Numbers::Float, &shape)
}

/// The output of a network that ends in a classifier of each channel's mean.
pub fn pooled_logits(
    graph: &mut Graph,
    classifier: &Linear,
    hidden: &Value,
) -> Result<(), ModelError> {
    let means = graph.node("GlobalAveragePool", "pooled.means", &[hidden], Vec::new());
    let pooled = graph.node("Flatten", "pooled", &[&means], vec![Setting::Int("axis", 1)]);
    let logits = linear(graph, classifier, &pooled)?;
    let shape = [Dim::Any("batch"), Dim::Fixed(classes(classifier))];
    graph.output("logits", &logits, Numbers::Float, &shape);
    Ok(())
}

/// A tensor of the model under its own name.
pub fn constant(graph: &mut Graph, weight: &Weight) -> Result<Value, ModelError> {
    Ok(graph.floats(&weight.name, &weight.tensor)?)
}

#[expect(clippy::cast_possible_truncation, reason = "f32 is what is computed in")]
fn single(number: f64) -> f32 {
    number as f32
}

/// As [`Activation::forward`].
pub fn activate(graph: &mut Graph, activation: Activation, name: &str, input: &Value) -> Value {
    let at = |part: &str| format!("{name}.{part}");
    match activation {
        Activation::Relu => graph.node("Relu", name, &[input], Vec::new()),
        Activation::Relu6 => {
            let [least, most] =
                [0.0, 6.0].map(|bound| graph.float(&at(&format!("{bound}")), bound));
            graph.node("Clip", name, &[input, &least, &most], Vec::new())
        }
        Activation::Silu => {
            let gate = graph.node("Sigmoid", &at("gate"), &[input], Vec::new());
            graph.node("Mul", name, &[input, &gate], Vec::new())
        }
        // x/2 · (1 + erf(x/√2)), in the order in which ONNX Runtime looks for it.
        Activation::Gelu => {
            let root = graph.float(&at("root"), std::f32::consts::SQRT_2);
            let inner = graph.node("Div", &at("inner"), &[input, &root], Vec::new());
            let curve = graph.node("Erf", &at("curve"), &[&inner], Vec::new());
            half_of_one_more(graph, name, input, &curve)
        }
        // x/2 · (1 + tanh(√(2/π) · (x + 0.044715 x³))).
        Activation::GeluTanh => {
            let three = graph.float(&at("three"), 3.0);
            let cube = graph.node("Pow", &at("cube"), &[input, &three], Vec::new());
            let share = graph.float(&at("share"), 0.044_715);
            let cube = graph.node("Mul", &at("cubes"), &[&cube, &share], Vec::new());
            let inner = graph.node("Add", &at("inner"), &[input, &cube], Vec::new());
            let root = graph.float(&at("root"), (2.0 / std::f32::consts::PI).sqrt());
            let inner = graph.node("Mul", &at("scaled"), &[&inner, &root], Vec::new());
            let curve = graph.node("Tanh", &at("curve"), &[&inner], Vec::new());
            half_of_one_more(graph, name, input, &curve)
        }
    }
}

/// `x · (1 + y) / 2`.
fn half_of_one_more(graph: &mut Graph, name: &str, x: &Value, y: &Value) -> Value {
    let one = graph.float(&format!("{name}.one"), 1.0);
    let more = graph.node("Add", &format!("{name}.more"), &[y, &one], Vec::new());
    let product = graph.node("Mul", &format!("{name}.twice"), &[x, &more], Vec::new());
    let half = graph.float(&format!("{name}.half"), 0.5);
    graph.node("Mul", name, &[&product, &half], Vec::new())
}
