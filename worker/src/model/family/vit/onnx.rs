//! ViT as ONNX: the same maths as [`super`], operator by operator.
//!
//! Input: `pixel_values`, f32 `[batch, channels, height, width]`, of the model's own size. Output:
//! `logits`, f32 `[batch, classes]`.

use super::{Layer, Vit};
use crate::model::ModelError;
use crate::model::parts::onnx::{
    activate, attention, classes, constant, convolution, first, layer_norm, linear,
};
use crate::onnx::graph::{Dim, Graph, Numbers, Setting, Value};

const BATCH: Dim = Dim::Any("batch");

impl Vit {
    pub(super) fn describe(&self, graph: &mut Graph) -> Result<(), ModelError> {
        let [height, width] = self.settings.image_size.pair().map(Dim::Fixed);
        let shape = [BATCH, Dim::Fixed(self.settings.num_channels), height, width];
        let pixels = graph.input("pixel_values", Numbers::Float, &shape);
        let mut hidden = self.describe_embeddings(graph, &pixels)?;
        for (index, layer) in self.layers.iter().enumerate() {
            let first_alone = index + 1 == self.layers.len();
            hidden = self.describe_layer(graph, (index, layer), &hidden, first_alone)?;
        }
        let axis = graph.ints("first.axis", &[1]);
        let first = graph.node("Squeeze", "first", &[&hidden, &axis], Vec::new());
        let normed = layer_norm(graph, &self.top.norm, &first)?;
        let logits = linear(graph, &self.top.classifier, &normed)?;
        let classes = Dim::Fixed(classes(&self.top.classifier));
        graph.output("logits", &logits, Numbers::Float, &[BATCH, classes]);
        Ok(())
    }

    /// Pixels → `[B, 1 + P, D]`.
    fn describe_embeddings(&self, graph: &mut Graph, pixels: &Value) -> Result<Value, ModelError> {
        let super::Embeddings { projection, cls_token, position } = &self.embeddings;
        let width = self.settings.hidden_size;
        let patches = convolution(graph, projection, pixels)?;
        // 0 keeps a dimension as it is, -1 takes what is left.
        let flat = graph.ints("patches.shape", &[0, width, -1]);
        let patches = graph.node("Reshape", "patches.flat", &[&patches, &flat], Vec::new());
        let order = vec![Setting::Ints("perm", vec![0, 2, 1])];
        let patches = graph.node("Transpose", "patches", &[&patches], order);

        let bounds = vec![Setting::Int("start", 0), Setting::Int("end", 1)];
        let rows = graph.node("Shape", "rows", &[pixels], bounds);
        let one = graph.ints("picture.shape", &[1, width]);
        let axis = || vec![Setting::Int("axis", 0)];
        let shape = graph.node("Concat", "picture.rows", &[&rows, &one], axis());
        let token = constant(graph, cls_token)?;
        let picture = graph.node("Expand", "picture", &[&token, &shape], Vec::new());
        let all = vec![Setting::Int("axis", 1)];
        let all = graph.node("Concat", "positions", &[&picture, &patches], all);
        let position = constant(graph, position)?;
        Ok(graph.node("Add", "embeddings", &[&all, &position], Vec::new()))
    }

    /// `[B, 1 + P, D]` → the same shape, or `[B, 1, D]` where the first position alone is wanted.
    fn describe_layer(
        &self,
        graph: &mut Graph,
        (index, layer): (usize, &Layer),
        hidden: &Value,
        first_alone: bool,
    ) -> Result<Value, ModelError> {
        let name = |part: &str| format!("layer.{index}.{part}");
        let normed = layer_norm(graph, &layer.norm_before, hidden)?;
        let (mut queries, mut around) = (normed.clone(), hidden.clone());
        if first_alone {
            queries = first(graph, &name, &normed);
            around = first(graph, &|part| name(&format!("around.{part}")), hidden);
        }
        let query = linear(graph, &layer.query, &queries)?;
        let key = linear(graph, &layer.key, &normed)?;
        let value = linear(graph, &layer.value, &normed)?;
        let heads = self.settings.num_attention_heads;
        let shape = [heads, self.settings.hidden_size / heads];
        let attended = attention(graph, &name, [&query, &key, &value], shape, None);

        let attended = linear(graph, &layer.attention_output, &attended)?;
        let hidden = graph.node("Add", &name("attention.sum"), &[&around, &attended], Vec::new());
        let normed = layer_norm(graph, &layer.norm_after, &hidden)?;
        let wide = linear(graph, &layer.intermediate, &normed)?;
        let wide = activate(graph, self.activation, &name("activation"), &wide);
        let narrow = linear(graph, &layer.output, &wide)?;
        Ok(graph.node("Add", &name("sum"), &[&hidden, &narrow], Vec::new()))
    }
}
