//! A network of tables as an ONNX graph: the same maths as [`super`], without dropout, operator by
//! operator.
//!
//! Inputs are [`hearth_tabular::Codes`]: `numbers` and `missing`, f32 `[batch, N]`, where there are numbers;
//! `categories`, i64 `[batch, C]`, where there are some. Output: `scores`, f32 `[batch, classes]`, in the
//! unit that the network learned in.

use tch::TchError;

use super::{Block, Body, Categories, EPS, Linear, Mlp, Net, Norm, Numbers, Transformer, size};
use crate::model::parts::onnx::{attention, first, normed, product};
use crate::onnx::graph::{self, Dim, Graph, Setting, Value};

const ROWS: Dim = Dim::Any("batch");

/// What goes in.
struct Inputs {
    /// Numbers, and which are missing.
    numbers: Option<[Value; 2]>,
    categories: Option<Value>,
}

impl Net {
    pub(in super::super) fn describe(&self, graph: &mut Graph) -> Result<(), TchError> {
        let (tables, output) = match &self.body {
            Body::Mlp(mlp) => (&mlp.categories.tables, &mlp.output),
            Body::Transformer(transformer) => (&transformer.categories.tables, &transformer.output),
        };
        let (numbers, categories) = (self.numbers, size(tables.len()));
        let inputs = Inputs {
            numbers: (numbers > 0).then(|| {
                ["numbers", "missing"].map(|name| {
                    graph.input(name, graph::Numbers::Float, &[ROWS, Dim::Fixed(numbers)])
                })
            }),
            categories: (categories > 0).then(|| {
                graph.input("categories", graph::Numbers::Int64, &[ROWS, Dim::Fixed(categories)])
            }),
        };
        let scores = match &self.body {
            Body::Mlp(mlp) => mlp.describe(graph, &inputs)?,
            Body::Transformer(transformer) => transformer.describe(graph, &inputs)?,
        };
        let classes = Dim::Fixed(output.bias.size()[0]);
        graph.output("scores", &scores, graph::Numbers::Float, &[ROWS, classes]);
        Ok(())
    }
}

impl Categories {
    /// i64 `[B, C]` → `[B, C, D]`.
    fn describe(&self, graph: &mut Graph, codes: &Value) -> Result<Value, TchError> {
        let mut tokens = Vec::with_capacity(self.tables.len());
        for (number, table) in self.tables.iter().enumerate() {
            let name = format!("cat_embeddings.embeddings.{number}");
            let place = graph.ints(&format!("{name}.place"), &[size(number)]);
            let of_columns = vec![Setting::Int("axis", 1)];
            let code = graph.node("Gather", &format!("{name}.code"), &[codes, &place], of_columns);
            let table = graph.floats(&format!("{name}.weight"), table)?;
            tokens.push(graph.node("Gather", &name, &[&table, &code], Vec::new()));
        }
        Ok(joined(graph, "cat_embeddings", &tokens))
    }
}

/// Values one behind the other along their second dimension.
fn joined(graph: &mut Graph, name: &str, values: &[Value]) -> Value {
    let values: Vec<&Value> = values.iter().collect();
    graph.node("Concat", name, &values, vec![Setting::Int("axis", 1)])
}

fn linear(graph: &mut Graph, name: &str, layer: &Linear, input: &Value) -> Result<Value, TchError> {
    product(graph, name, (&layer.weight, Some(&layer.bias)), input)
}

fn norm(graph: &mut Graph, name: &str, norm: &Norm, input: &Value) -> Result<Value, TchError> {
    normed(graph, name, (&norm.weight, &norm.bias, EPS), input)
}

impl Mlp {
    fn describe(&self, graph: &mut Graph, inputs: &Inputs) -> Result<Value, TchError> {
        let mut parts = Vec::with_capacity(3);
        parts.extend(inputs.numbers.iter().flatten().cloned());
        if let Some(codes) = &inputs.categories {
            let tokens = self.categories.describe(graph, codes)?;
            let flat = vec![Setting::Int("axis", 1)];
            parts.push(graph.node("Flatten", "cat_embeddings.flat", &[&tokens], flat));
        }
        let mut x = joined(graph, "embedded", &parts);
        for (number, block) in self.blocks.iter().enumerate() {
            let name = format!("blocks.{number}");
            let wide = linear(graph, &format!("{name}.linear"), block, &x)?;
            x = graph.node("Relu", &name, &[&wide], Vec::new());
        }
        linear(graph, "output", &self.output, &x)
    }
}

impl Transformer {
    fn describe(&self, graph: &mut Graph, inputs: &Inputs) -> Result<Value, TchError> {
        let mut tokens = vec![self.describe_cls(graph, inputs)?];
        if let (Some(numbers), Some(given)) = (&self.numbers, &inputs.numbers) {
            tokens.push(numbers.describe(graph, given)?);
        }
        if let (Some(bias), Some(codes)) = (&self.category_bias, &inputs.categories) {
            let categories = self.categories.describe(graph, codes)?;
            let bias = graph.floats("cat_embeddings.bias", bias)?;
            tokens.push(graph.node("Add", "cat_tokens", &[&categories, &bias], Vec::new()));
        }
        let mut x = joined(graph, "tokens", &tokens);
        for (number, block) in self.blocks.iter().enumerate() {
            x = block.describe(graph, number, &x, number + 1 == self.blocks.len())?;
        }
        let axis = graph.ints("backbone.output.axis", &[1]);
        let cls = graph.node("Squeeze", "backbone.output.cls", &[&x, &axis], Vec::new());
        let cls = norm(graph, "backbone.output.normalization", &self.norm, &cls)?;
        let cls = graph.node("Relu", "backbone.output.activation", &[&cls], Vec::new());
        linear(graph, "backbone.output.linear", &self.output, &cls)
    }

    /// `[B, 1, D]`.
    fn describe_cls(&self, graph: &mut Graph, inputs: &Inputs) -> Result<Value, TchError> {
        let numbers = inputs.numbers.as_ref().map(|[numbers, _]| numbers);
        let any: Vec<&Value> = numbers.into_iter().chain(&inputs.categories).take(1).collect();
        let of_rows = vec![Setting::Int("start", 0), Setting::Int("end", 1)];
        let rows = graph.node("Shape", "rows", &any, of_rows);
        let rest = graph.ints("cls_embedding.size", &[1, self.d_token]);
        let shape = vec![Setting::Int("axis", 0)];
        let shape = graph.node("Concat", "cls_embedding.shape", &[&rows, &rest], shape);
        let cls = graph.floats("cls_embedding.weight", &self.cls)?;
        Ok(graph.node("Expand", "cls_embedding", &[&cls, &shape], Vec::new()))
    }
}

impl Numbers {
    /// Numbers and which are missing, `[B, N]` each → `[B, N, D]`.
    fn describe(&self, graph: &mut Graph, given: &[Value; 2]) -> Result<Value, TchError> {
        let axis = graph.ints("cont_embeddings.axis", &[-1]);
        let mut parts = Vec::with_capacity(2);
        for (input, (name, weight)) in
            given.iter().zip([("weight", &self.weight), ("missing", &self.missing)])
        {
            let at = |part: &str| format!("cont_embeddings.{name}{part}");
            let column = graph.node("Unsqueeze", &at(".column"), &[input, &axis], Vec::new());
            let weight = graph.floats(&at(""), weight)?;
            parts.push(graph.node("Mul", &at(".part"), &[&column, &weight], Vec::new()));
        }
        let sum = graph.node("Add", "cont_embeddings.sum", &[&parts[0], &parts[1]], Vec::new());
        let bias = graph.floats("cont_embeddings.bias", &self.bias)?;
        Ok(graph.node("Add", "cont_tokens", &[&sum, &bias], Vec::new()))
    }
}

impl Block {
    /// `[B, T, D]` → `[B, T, D]`, or `[B, 1, D]` where only the first token is asked for.
    fn describe(
        &self,
        graph: &mut Graph,
        number: usize,
        x: &Value,
        only_first: bool,
    ) -> Result<Value, TchError> {
        let name = |part: &str| format!("backbone.blocks.{number}.{part}");
        let seen = match &self.attention_norm {
            Some(of) => norm(graph, &name("attention_normalization"), of, x)?,
            None => x.clone(),
        };
        let (asked, kept) = if only_first {
            let asked = first(graph, &|part| name(&format!("asked.{part}")), &seen);
            (asked, first(graph, &|part| name(&format!("kept.{part}")), x))
        } else {
            (seen.clone(), x.clone())
        };
        let query = linear(graph, &name("attention.W_q"), &self.query, &asked)?;
        let key = linear(graph, &name("attention.W_k"), &self.key, &seen)?;
        let value = linear(graph, &name("attention.W_v"), &self.value, &seen)?;
        let heads = [self.heads, self.query.bias.size()[0] / self.heads];
        let mut mixed = attention(graph, &name, [&query, &key, &value], heads, None);
        if let Some(mix) = &self.mix {
            mixed = linear(graph, &name("attention.W_out"), mix, &mixed)?;
        }
        let x = graph.node("Add", &name("attention.sum"), &[&kept, &mixed], Vec::new());
        let inner = norm(graph, &name("ffn_normalization"), &self.ffn_norm, &x)?;
        let inner = linear(graph, &name("ffn.linear1"), &self.first, &inner)?;
        let half = self.first.bias.size()[0] / 2;
        let axis = graph.ints(&name("ffn.axis"), &[2]);
        let mut cut = |part: &str, from: i64| {
            let start = graph.ints(&name(&format!("ffn.{part}.start")), &[from]);
            let end = graph.ints(&name(&format!("ffn.{part}.end")), &[from + half]);
            let cut = [&inner, &start, &end, &axis];
            graph.node("Slice", &name(&format!("ffn.{part}")), &cut, Vec::new())
        };
        let (passed, gate) = (cut("passed", 0), cut("gate", half));
        let gate = graph.node("Relu", &name("ffn.activation"), &[&gate], Vec::new());
        let gated = graph.node("Mul", &name("ffn.gated"), &[&passed, &gate], Vec::new());
        let added = linear(graph, &name("ffn.linear2"), &self.second, &gated)?;
        Ok(graph.node("Add", &name("ffn.sum"), &[&x, &added], Vec::new()))
    }
}
