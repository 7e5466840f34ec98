//! BERT as ONNX: the same maths as [`super`], operator by operator.
//!
//! Inputs: `input_ids` and `attention_mask`, i64 `[batch, tokens]`. Output: `logits`, f32
//! `[batch, classes]`.

use super::{Bert, Encoder, Layer};
use crate::model::ModelError;
use crate::model::module::Weight;
use crate::model::parts::activation::Activation;
use crate::model::parts::linear::{Linear, LinearKind};
use crate::model::parts::norm::LayerNorm;
use crate::onnx::graph::{Dim, Graph, Numbers, Setting, Value};

const ROWS: [Dim; 2] = [Dim::Any("batch"), Dim::Any("tokens")];

impl Bert {
    pub(super) fn describe(&self, graph: &mut Graph) -> Result<(), ModelError> {
        let ids = graph.input("input_ids", Numbers::Int64, &ROWS);
        let mask = graph.input("attention_mask", Numbers::Int64, &ROWS);
        let unseen = unseen(graph, &mask);
        let mut hidden = self.encoder.describe_embeddings(graph, &ids)?;
        let layers = &self.encoder.layers;
        for (index, layer) in layers.iter().enumerate() {
            let first_alone = index + 1 == layers.len();
            hidden = self.encoder.describe_layer(
                graph,
                (index, layer),
                (&hidden, &unseen),
                first_alone,
            )?;
        }
        let axis = graph.ints("pooled.axis", &[1]);
        let first = graph.node("Squeeze", "pooled.first", &[&hidden, &axis], Vec::new());
        let pooled = linear(graph, &self.top.pooler, &first)?;
        let pooled = graph.node("Tanh", "pooled", &[&pooled], Vec::new());
        let logits = linear(graph, &self.top.classifier, &pooled)?;
        let classes = Dim::Fixed(self.classes());
        graph.output("logits", &logits, Numbers::Float, &[ROWS[0], classes]);
        Ok(())
    }

    fn classes(&self) -> i64 {
        match &self.top.classifier.kind {
            LinearKind::Dense { weight, .. } => weight.size().first().copied().unwrap_or_default(),
            LinearKind::Other(_) => 0,
        }
    }
}

impl Encoder {
    /// ids → `[B, T, D]`.
    fn describe_embeddings(&self, graph: &mut Graph, ids: &Value) -> Result<Value, ModelError> {
        let super::Embeddings { word, position, token_type, norm } = &self.embeddings;
        let table = graph.floats(&word.weight.name, &word.weight.tensor)?;
        let words = graph.node("Gather", "embeddings.words", &[&table, ids], Vec::new());
        // Every token is of segment 0, so positions carry it.
        let first = token_type.weight.tensor.f_narrow(0, 0, 1)?;
        let table = graph.floats(&position.weight.name, &position.weight.tensor.f_add(&first)?)?;
        let bounds = vec![Setting::Int("start", 1), Setting::Int("end", 2)];
        let tokens = graph.node("Shape", "tokens", &[ids], bounds);
        let zero = graph.ints("zero", &[0]);
        let inputs = [&table, &zero, &tokens, &zero];
        let positions = graph.node("Slice", "embeddings.positions", &inputs, Vec::new());
        let sum = graph.node("Add", "embeddings.sum", &[&words, &positions], Vec::new());
        layer_norm(graph, norm, &sum)
    }

    /// `[B, T, D]` → `[B, T, D]`, or `[B, 1, D]` where the first position alone is wanted.
    fn describe_layer(
        &self,
        graph: &mut Graph,
        (index, layer): (usize, &Layer),
        (hidden, unseen): (&Value, &Value),
        first_alone: bool,
    ) -> Result<Value, ModelError> {
        let name = |part: &str| format!("layer.{index}.{part}");
        let mut queries = hidden.clone();
        if first_alone {
            let [start, end] = [0, 1].map(|at| graph.ints(&name(&format!("slice.{at}")), &[at]));
            let inputs = [hidden, &start, &end, &end];
            queries = graph.node("Slice", &name("first"), &inputs, Vec::new());
        }
        let query = linear(graph, &layer.query, &queries)?;
        let key = linear(graph, &layer.key, hidden)?;
        let value = linear(graph, &layer.value, hidden)?;
        let (heads, width) = (self.settings.num_attention_heads, self.settings.hidden_size);
        // 0 keeps a dimension as it is.
        let split = graph.ints(&name("heads"), &[0, 0, heads, width / heads]);
        let mut by_head = |part: &str, flat: &Value, order: [i64; 4]| {
            let cut =
                graph.node("Reshape", &name(&format!("{part}.cut")), &[flat, &split], Vec::new());
            let order = vec![Setting::Ints("perm", order.into())];
            graph.node("Transpose", &name(part), &[&cut], order)
        };
        let query = by_head("query", &query, [0, 2, 1, 3]);
        let key = by_head("key", &key, [0, 2, 3, 1]);
        let value = by_head("value", &value, [0, 2, 1, 3]);

        #[expect(clippy::cast_possible_truncation, reason = "f32 is what is computed in")]
        let scale = graph.float(&name("scale"), (((width / heads) as f64).sqrt().recip()) as f32);
        let scores = graph.node("MatMul", &name("products"), &[&query, &key], Vec::new());
        let scores = graph.node("Mul", &name("scaled"), &[&scores, &scale], Vec::new());
        let scores = graph.node("Add", &name("scores"), &[&scores, unseen], Vec::new());
        let last = vec![Setting::Int("axis", -1)];
        let shares = graph.node("Softmax", &name("shares"), &[&scores], last);
        let attended = graph.node("MatMul", &name("attended"), &[&shares, &value], Vec::new());
        let order = vec![Setting::Ints("perm", vec![0, 2, 1, 3])];
        let attended = graph.node("Transpose", &name("by_position"), &[&attended], order);
        let join = graph.ints(&name("width"), &[0, 0, width]);
        let attended = graph.node("Reshape", &name("joined"), &[&attended, &join], Vec::new());

        let attended = linear(graph, &layer.attention_output, &attended)?;
        let sum = graph.node("Add", &name("attention.sum"), &[&attended, &queries], Vec::new());
        let attended = layer_norm(graph, &layer.attention_norm, &sum)?;
        let wide = linear(graph, &layer.intermediate, &attended)?;
        let wide = activate(graph, self.activation, &name("activation"), &wide);
        let narrow = linear(graph, &layer.output, &wide)?;
        let sum = graph.node("Add", &name("sum"), &[&narrow, &attended], Vec::new());
        layer_norm(graph, &layer.output_norm, &sum)
    }
}

/// What scores are moved by: 0 where there is a token, else the least number, f32 `[B, 1, 1, T]`.
fn unseen(graph: &mut Graph, mask: &Value) -> Value {
    let floats = vec![Setting::Int("to", Numbers::Float as i64)];
    let seen = graph.node("Cast", "mask.floats", &[mask], floats);
    let axes = graph.ints("mask.axes", &[1, 2]);
    let seen = graph.node("Unsqueeze", "mask.seen", &[&seen, &axes], Vec::new());
    let one = graph.float("mask.one", 1.0);
    let absent = graph.node("Sub", "mask.absent", &[&one, &seen], Vec::new());
    let least = graph.float("mask.least", f32::MIN);
    graph.node("Mul", "mask", &[&absent, &least], Vec::new())
}

fn linear(graph: &mut Graph, layer: &Linear, input: &Value) -> Result<Value, ModelError> {
    let LinearKind::Dense { weight, bias } = &layer.kind else {
        return Err(ModelError::Pass(
            "ONNX has floats alone: take the model from before its compression, or FP16 or BF16",
        ));
    };
    let name = &layer.name;
    let turned = graph.floats(&format!("{name}.weight"), &weight.f_transpose(0, 1)?)?;
    let product = graph.node("MatMul", &format!("{name}.product"), &[input, &turned], Vec::new());
    let Some(bias) = bias else { return Ok(product) };
    let bias = graph.floats(&format!("{name}.bias"), bias)?;
    Ok(graph.node("Add", name, &[&product, &bias], Vec::new()))
}

fn layer_norm(graph: &mut Graph, norm: &LayerNorm, input: &Value) -> Result<Value, ModelError> {
    let mut part = |weight: &Weight| graph.floats(&weight.name, &weight.tensor);
    let (scale, shift) = (part(&norm.weight)?, part(&norm.bias)?);
    #[expect(clippy::cast_possible_truncation, reason = "f32 is what is computed in")]
    let settings = vec![Setting::Int("axis", -1), Setting::Float("epsilon", norm.eps as f32)];
    let name = norm.weight.name.trim_end_matches(".weight");
    Ok(graph.node("LayerNormalization", name, &[input, &scale, &shift], settings))
}

fn activate(graph: &mut Graph, activation: Activation, name: &str, input: &Value) -> Value {
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
