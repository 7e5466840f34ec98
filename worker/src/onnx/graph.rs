//! Puts an ONNX graph together, operator by operator.

use bytes::Bytes;
use prost::Message as _;
use tch::{Device, Kind, TchError, Tensor};

use super::proto;

/// The operators that are meant: the first with LayerNormalization.
const OPERATORS: i64 = 17;
/// Operators of classical models, the first with trees of 64-bit floats.
const CLASSICAL: (&str, i64) = ("ai.onnx.ml", 3);
/// The format that came with them.
const FORMAT: i64 = 8;
/// What a protobuf may have at most.
const MOST_BYTES: usize = 0x7fff_ffff;

/// A value: an input, a constant, or what an operator gives.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Value(String);

/// Type of a value's numbers, by their ONNX number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Numbers {
    /// 32-bit floats.
    Float = 1,
    /// Bytes.
    Uint8 = 2,
    /// 64-bit integers.
    Int64 = 7,
    /// 64-bit floats.
    Double = 11,
}

/// A dimension of an input or output.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dim {
    /// Always the same.
    Fixed(i64),
    /// Any, under a name.
    Any(&'static str),
}

/// A setting of an operator.
#[derive(Clone, Debug, PartialEq)]
pub enum Setting {
    /// A number.
    Int(&'static str, i64),
    /// Numbers.
    Ints(&'static str, Vec<i64>),
    /// A number.
    Float(&'static str, f32),
    /// Numbers, in 64 bits.
    Doubles(&'static str, Vec<f64>),
    /// A word.
    Text(&'static str, &'static str),
    /// Words.
    Texts(&'static str, Vec<&'static str>),
}

/// A graph that grows.
#[derive(Debug, Default)]
pub struct Graph {
    graph: proto::GraphProto,
}

impl Graph {
    /// An empty graph.
    pub fn new(name: &str) -> Self {
        Self { graph: proto::GraphProto { name: name.to_owned(), ..proto::GraphProto::default() } }
    }

    /// What goes in.
    pub fn input(&mut self, name: &str, numbers: Numbers, shape: &[Dim]) -> Value {
        self.graph.input.push(info(name, numbers, shape));
        Value(name.to_owned())
    }

    /// What comes out, under a name of its own.
    pub fn output(&mut self, name: &str, of: &Value, numbers: Numbers, shape: &[Dim]) {
        self.node("Identity", name, &[of], Vec::new());
        self.graph.output.push(info(name, numbers, shape));
    }

    /// Constant floats.
    pub fn floats(&mut self, name: &str, tensor: &Tensor) -> Result<Value, TchError> {
        let flat = tensor.f_to_device(Device::Cpu)?.f_to_kind(Kind::Float)?.f_contiguous()?;
        let numbers = Vec::<f32>::try_from(&flat.f_reshape([-1i64])?)?;
        let bytes = numbers.iter().flat_map(|number| number.to_le_bytes()).collect::<Vec<u8>>();
        Ok(self.constant(name, Numbers::Float, tensor.size(), bytes))
    }

    /// One constant float.
    pub fn float(&mut self, name: &str, number: f32) -> Value {
        self.constant(name, Numbers::Float, Vec::new(), number.to_le_bytes().into())
    }

    /// A constant list of integers.
    pub fn ints(&mut self, name: &str, numbers: &[i64]) -> Value {
        let bytes = numbers.iter().flat_map(|number| number.to_le_bytes()).collect();
        let length = i64::try_from(numbers.len()).unwrap_or(i64::MAX);
        self.constant(name, Numbers::Int64, vec![length], bytes)
    }

    /// One constant float in 64 bits.
    pub fn double(&mut self, name: &str, number: f64) -> Value {
        self.constant(name, Numbers::Double, Vec::new(), number.to_le_bytes().into())
    }

    /// Constant bytes; as many as `dims` say.
    pub fn bytes(&mut self, name: &str, dims: &[i64], bytes: Vec<u8>) -> Value {
        self.constant(name, Numbers::Uint8, dims.to_vec(), bytes)
    }

    fn constant(&mut self, name: &str, numbers: Numbers, dims: Vec<i64>, bytes: Vec<u8>) -> Value {
        self.graph.initializer.push(tensor(name, numbers, dims, bytes));
        Value(name.to_owned())
    }

    /// What an operator gives of `inputs`; `name` is that of the operator and of its value.
    pub fn node(
        &mut self,
        operator: &str,
        name: &str,
        inputs: &[&Value],
        settings: Vec<Setting>,
    ) -> Value {
        self.push((operator, ""), name, inputs, settings)
    }

    /// As [`Self::node`], of an operator of classical models.
    pub fn classical(
        &mut self,
        operator: &str,
        name: &str,
        inputs: &[&Value],
        settings: Vec<Setting>,
    ) -> Value {
        self.push((operator, CLASSICAL.0), name, inputs, settings)
    }

    fn push(
        &mut self,
        (operator, domain): (&str, &str),
        name: &str,
        inputs: &[&Value],
        settings: Vec<Setting>,
    ) -> Value {
        self.graph.node.push(proto::Node {
            input: inputs.iter().map(|value| value.0.clone()).collect(),
            output: vec![name.to_owned()],
            name: name.to_owned(),
            op_type: operator.to_owned(),
            attribute: settings.into_iter().map(Setting::into_proto).collect(),
            domain: domain.to_owned(),
        });
        Value(name.to_owned())
    }

    /// The graph as a file; `notes` are kept in it. `None` where it is larger than a protobuf can be.
    pub fn into_file(self, notes: &[(&str, &str)]) -> Option<Vec<u8>> {
        let note = |(key, value): &(&str, &str)| proto::Entry {
            key: (*key).to_owned(),
            value: (*value).to_owned(),
        };
        let set = |(domain, version): (&str, i64)| proto::OperatorSet {
            domain: domain.to_owned(),
            version,
        };
        let is_classical = self.graph.node.iter().any(|node| node.domain == CLASSICAL.0);
        let model = proto::Model {
            ir_version: FORMAT,
            producer_name: "hearth".to_owned(),
            producer_version: env!("CARGO_PKG_VERSION").to_owned(),
            graph: Some(self.graph),
            opset_import: std::iter::once(("", OPERATORS))
                .chain(is_classical.then_some(CLASSICAL))
                .map(set)
                .collect(),
            metadata_props: notes.iter().map(note).collect(),
        };
        (model.encoded_len() <= MOST_BYTES).then(|| model.encode_to_vec())
    }
}

impl Setting {
    fn into_proto(self) -> proto::Attribute {
        let named = |name: &str, r#type: i32| proto::Attribute {
            name: name.to_owned(),
            r#type,
            ..proto::Attribute::default()
        };
        match self {
            Self::Float(name, number) => proto::Attribute { f: Some(number), ..named(name, 1) },
            Self::Int(name, number) => proto::Attribute { i: Some(number), ..named(name, 2) },
            Self::Text(name, text) => proto::Attribute { s: Some(text.into()), ..named(name, 3) },
            Self::Doubles(name, numbers) => {
                let bytes = numbers.iter().flat_map(|number| number.to_le_bytes()).collect();
                let dims = vec![i64::try_from(numbers.len()).unwrap_or(i64::MAX)];
                let tensor = tensor(name, Numbers::Double, dims, bytes);
                proto::Attribute { t: Some(tensor), ..named(name, 4) }
            }
            Self::Texts(name, texts) => {
                let strings = texts.into_iter().map(Into::into).collect();
                proto::Attribute { strings, ..named(name, 8) }
            }
            Self::Ints(name, numbers) => proto::Attribute { ints: numbers, ..named(name, 7) },
        }
    }
}

fn tensor(name: &str, numbers: Numbers, dims: Vec<i64>, bytes: Vec<u8>) -> proto::Tensor {
    proto::Tensor {
        dims,
        data_type: numbers as i32,
        name: name.to_owned(),
        raw_data: Bytes::from(bytes),
    }
}

fn info(name: &str, numbers: Numbers, shape: &[Dim]) -> proto::ValueInfo {
    let dim = |dim: &Dim| proto::Dimension {
        size: Some(match dim {
            Dim::Fixed(size) => proto::Size::Fixed(*size),
            Dim::Any(name) => proto::Size::Named((*name).to_owned()),
        }),
    };
    let shape = proto::Shape { dim: shape.iter().map(dim).collect() };
    let tensor = proto::TensorType { elem_type: numbers as i32, shape: Some(shape) };
    proto::ValueInfo {
        name: name.to_owned(),
        r#type: Some(proto::Type { tensor_type: Some(tensor) }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_says_what_was_put_together() {
        let mut graph = Graph::new("sum");
        let input = graph.input("x", Numbers::Float, &[Dim::Any("batch"), Dim::Fixed(2)]);
        let weight = graph.floats("w", &Tensor::from_slice(&[1.0f32, -2.0])).unwrap();
        let sum = graph.node("Add", "sum", &[&input, &weight], Vec::new());
        let norm = vec![Setting::Int("axis", -1), Setting::Float("epsilon", 0.5)];
        let moved = graph.node("Softmax", "soft", &[&sum], norm);
        graph.output("y", &moved, Numbers::Float, &[Dim::Any("batch"), Dim::Fixed(2)]);
        let file = graph.into_file(&[("labels", "[]")]).unwrap();

        let model = proto::Model::decode(file.as_slice()).unwrap();
        assert_eq!((model.ir_version, model.opset_import[0].version), (8, 17));
        assert_eq!(model.metadata_props[0].value, "[]");
        let graph = model.graph.unwrap();
        let operators: Vec<_> = graph.node.iter().map(|node| node.op_type.as_str()).collect();
        assert_eq!(operators, ["Add", "Softmax", "Identity"]);
        assert_eq!(graph.node[0].input, ["x", "w"]);
        assert_eq!(graph.node[1].attribute[0].i, Some(-1));
        assert_eq!(graph.initializer[0].raw_data[4..], (-2.0f32).to_le_bytes());
        assert_eq!(graph.output[0].name, "y");
    }

    #[test]
    fn classical_operators_are_told_with_their_set() {
        let mut graph = Graph::new("trees");
        let input = graph.input("x", Numbers::Double, &[Dim::Any("batch"), Dim::Fixed(2)]);
        let settings = vec![
            Setting::Doubles("values", vec![0.1]),
            Setting::Texts("modes", vec!["LEAF", "LEAF"]),
        ];
        let trees = graph.classical("TreeEnsembleRegressor", "trees", &[&input], settings);
        graph.output("y", &trees, Numbers::Float, &[Dim::Any("batch"), Dim::Fixed(1)]);
        let file = graph.into_file(&[]).unwrap();

        let model = proto::Model::decode(file.as_slice()).unwrap();
        let sets = model.opset_import.iter().map(|set| (set.domain.as_str(), set.version));
        assert_eq!(sets.collect::<Vec<_>>(), [("", 17), ("ai.onnx.ml", 3)]);
        let node = &model.graph.as_ref().unwrap().node[0];
        assert_eq!(node.domain, "ai.onnx.ml");
        let values = node.attribute[0].t.as_ref().unwrap();
        assert_eq!((values.data_type, &values.dims[..]), (11, &[1][..]));
        assert_eq!(values.raw_data[..], 0.1f64.to_le_bytes());
        assert_eq!((node.attribute[1].r#type, node.attribute[1].strings.len()), (8, 2));
    }
}
