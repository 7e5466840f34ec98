//! BERT as ONNX: the same maths as [`super`], operator by operator.
//!
//! Inputs: `input_ids` and `attention_mask`, i64 `[batch, tokens]`. Output: `logits`, f32
//! `[batch, classes]`.

use super::{Bert, Encoder, Layer};
use crate::model::ModelError;
use crate::model::parts::onnx::{activate, attention, classes, first, layer_norm, linear};
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
            let inputs = (&hidden, &unseen);
            hidden = self.encoder.describe_layer(graph, (index, layer), inputs, first_alone)?;
        }
        let axis = graph.ints("pooled.axis", &[1]);
        let first = graph.node("Squeeze", "pooled.first", &[&hidden, &axis], Vec::new());
        let pooled = linear(graph, &self.top.pooler, &first)?;
        let pooled = graph.node("Tanh", "pooled", &[&pooled], Vec::new());
        let logits = linear(graph, &self.top.classifier, &pooled)?;
        let classes = Dim::Fixed(classes(&self.top.classifier));
        graph.output("logits", &logits, Numbers::Float, &[ROWS[0], classes]);
        Ok(())
    }
}

impl Encoder {
    /// ids → `[B, T, D]`.
    fn describe_embeddings(&self, graph: &mut Graph, ids: &Value) -> Result<Value, ModelError> {
        let super::Embeddings { word, position, token_type, norm } = &self.embeddings;
        let table = graph.floats(&word.weight.name, &word.weight.tensor)?;
        let words = graph.node("Gather", "embeddings.words", &[&table, ids], Vec::new());
        // Every token is of segment 0, so positions carry it.
        let segment = token_type.weight.tensor.f_narrow(0, 0, 1)?;
        let table =
            graph.floats(&position.weight.name, &position.weight.tensor.f_add(&segment)?)?;
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
        let queries = if first_alone { first(graph, &name, hidden) } else { hidden.clone() };
        let query = linear(graph, &layer.query, &queries)?;
        let key = linear(graph, &layer.key, hidden)?;
        let value = linear(graph, &layer.value, hidden)?;
        let heads = self.settings.num_attention_heads;
        let shape = [heads, self.settings.hidden_size / heads];
        let attended = attention(graph, &name, [&query, &key, &value], shape, Some(unseen));

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
