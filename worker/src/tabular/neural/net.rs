//! Networks of tables: an MLP and FT-Transformer (Gorishniy et al. 2021, arXiv:2106.11959).
//!
//! Both first embed a row: each feature becomes numbers of its own, and what is behind sees these alone.
//! Names of tensors are those of the reference (`rtdl_revisiting_models` 0.0.2), which reads them; ours are
//! `cont_embeddings.missing` and an MLP's `cat_embeddings`. Letters of shapes: B rows, N numbers, C
//! categories, F = N + C features, D numbers of a token, T = 1 + F tokens.

mod onnx;

use hearth_tabular::{Codes, NetworkConfig, Shape};
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::RngCore as _;
use tch::{Kind, TchError, Tensor};

use super::tensors::{Maker, NetworkError, Start};
use crate::model::{Parameter, Role};

/// As PyTorch's LayerNorm has it.
const EPS: f64 = 1e-5;

/// Rows as a network takes them.
pub(super) struct Batch {
    /// f32 `[B, N]`.
    numbers: Tensor,
    /// f32 `[B, N]`, 1 where the number is missing.
    missing: Tensor,
    /// i64 `[B, C]`.
    categories: Tensor,
}

impl Batch {
    /// Rows that are encoded.
    pub(super) fn new(
        config: &NetworkConfig,
        codes: &Codes,
        rows: usize,
    ) -> Result<Self, TchError> {
        let rows = i64::try_from(rows).unwrap_or(i64::MAX);
        let numbers = size(config.numbers());
        let categories = size(config.categories().len());
        Ok(Self {
            numbers: Tensor::f_from_slice(&codes.numbers)?.f_view([rows, numbers])?,
            missing: Tensor::f_from_slice(&codes.missing)?.f_view([rows, numbers])?,
            categories: Tensor::f_from_slice(&codes.categories)?.f_view([rows, categories])?,
        })
    }

    /// Some rows, i64 `[B]`.
    pub(super) fn take(&self, rows: &Tensor) -> Result<Self, TchError> {
        Ok(Self {
            numbers: self.numbers.f_index_select(0, rows)?,
            missing: self.missing.f_index_select(0, rows)?,
            categories: self.categories.f_index_select(0, rows)?,
        })
    }
}

/// What is dropped at random.
pub(super) enum Noise {
    /// Nothing: evaluation and serving.
    Off,
    /// By this generator. libtorch's own is one for the whole process.
    On(Box<ChaCha8Rng>),
}

impl Noise {
    /// Zeroes about a share of the input, and scales the rest up (Srivastava et al. 2014).
    pub(super) fn drop(&mut self, input: Tensor, share: f64) -> Result<Tensor, TchError> {
        let Self::On(random) = self else { return Ok(input) };
        if share <= 0.0 {
            return Ok(input);
        }
        let mut bytes = vec![0; 2 * input.numel()];
        random.fill_bytes(&mut bytes);
        #[expect(clippy::cast_possible_truncation, reason = "networks have 32 bits")]
        let scale = (1.0 / (1.0 - share)) as f32;
        let kept = |pair: &[u8]| {
            let drawn = u16::from_le_bytes([pair[0], pair[1]]);
            if f64::from(drawn) < share * 65_536.0 { 0.0 } else { scale }
        };
        let mask: Vec<f32> = bytes.chunks_exact(2).map(kept).collect();
        let size = input.size();
        input.f_mul(&Tensor::f_from_slice(&mask)?.f_view(size.as_slice())?)
    }
}

/// `y = x Wᵀ + b`.
struct Linear {
    weight: Tensor,
    bias: Tensor,
}

impl Linear {
    /// First values as of PyTorch's `nn.Linear`.
    fn new(maker: &mut Maker, name: &str, [from, to]: [i64; 2]) -> Result<Self, NetworkError> {
        let start = Start::Uniform((from as f64).powf(-0.5));
        let weight =
            maker.tensor(&format!("{name}.weight"), &[to, from], (start, Role::Decayed))?;
        let bias = maker.tensor(&format!("{name}.bias"), &[to], (start, Role::Plain))?;
        Ok(Self { weight, bias })
    }

    fn forward(&self, input: &Tensor) -> Result<Tensor, TchError> {
        input.f_linear(&self.weight, Some(&self.bias))
    }
}

/// Layer norm (Ba et al. 2016).
struct Norm {
    weight: Tensor,
    bias: Tensor,
}

impl Norm {
    fn new(maker: &mut Maker, name: &str, width: i64) -> Result<Self, NetworkError> {
        let mut of = |part: &str, start| {
            maker.tensor(&format!("{name}.{part}"), &[width], (Start::Constant(start), Role::Plain))
        };
        Ok(Self { weight: of("weight", 1.0)?, bias: of("bias", 0.0)? })
    }

    fn forward(&self, input: &Tensor) -> Result<Tensor, TchError> {
        input.f_layer_norm(self.weight.size(), Some(&self.weight), Some(&self.bias), EPS, false)
    }
}

/// A vector of each value of each category. Those of values that training rows did not have, and of
/// missing ones, begin at 0, between all others, and stay there where no training row has them.
struct Categories {
    tables: Vec<Tensor>,
}

impl Categories {
    fn new(maker: &mut Maker, values: &[usize], width: i64) -> Result<Self, NetworkError> {
        let start = Start::UniformBut((width as f64).powf(-0.5), 2);
        let table = |(number, values): (usize, &usize)| {
            let name = format!("cat_embeddings.embeddings.{number}.weight");
            maker.tensor(&name, &[size(*values) + 2, width], (start, Role::Plain))
        };
        Ok(Self { tables: values.iter().enumerate().map(table).collect::<Result<_, _>>()? })
    }

    /// i64 `[B, C]` → `[B, D]`, one a category.
    fn forward(&self, codes: &Tensor) -> Result<Vec<Tensor>, TchError> {
        let one = |(number, table): (usize, &Tensor)| {
            let codes = codes.f_select(1, size(number))?;
            Tensor::f_embedding(table, &codes, -1, false, false)
        };
        self.tables.iter().enumerate().map(one).collect()
    }
}

/// A network.
pub(super) struct Net {
    body: Body,
    numbers: i64,
    parameters: Vec<Parameter>,
}

enum Body {
    Mlp(Mlp),
    Transformer(Box<Transformer>),
}

impl Net {
    /// A network of that configuration, with that many raw scores.
    pub(super) fn new(
        config: &NetworkConfig,
        classes: usize,
        mut maker: Maker,
    ) -> Result<Self, NetworkError> {
        let (numbers, values, classes) =
            (size(config.numbers()), config.categories(), size(classes));
        let body = match &config.shape {
            Shape::Mlp { .. } => {
                Body::Mlp(Mlp::new(&mut maker, &config.shape, (numbers, &values, classes))?)
            }
            Shape::FtTransformer { .. } => {
                let of = (numbers, values.as_slice(), classes);
                Body::Transformer(Box::new(Transformer::new(&mut maker, &config.shape, of)?))
            }
        };
        Ok(Self { body, numbers, parameters: maker.finish()? })
    }

    /// Its tensors, in the order of the forward pass.
    pub(super) fn parameters(&self) -> &[Parameter] {
        &self.parameters
    }

    /// What the rest of the network sees of rows: tokens `[B, F, D]`, or `[B, 2 N + C D]` of an MLP.
    pub(super) fn embed(&self, batch: &Batch) -> Result<Tensor, TchError> {
        match &self.body {
            Body::Mlp(mlp) => mlp.embed(batch),
            Body::Transformer(transformer) => transformer.embed(batch),
        }
    }

    /// Raw scores, `[B, classes]`, of what [`Self::embed`] gives.
    pub(super) fn score(&self, embedded: &Tensor, noise: &mut Noise) -> Result<Tensor, TchError> {
        match &self.body {
            Body::Mlp(mlp) => mlp.score(embedded, noise),
            Body::Transformer(transformer) => transformer.score(embedded, noise),
        }
    }

    /// Sums of what [`Self::embed`] gives (or anything of its shape) over the numbers of each feature:
    /// `[B, F]`, numbers first.
    pub(super) fn by_feature(&self, embedded: &Tensor) -> Result<Tensor, TchError> {
        let Body::Mlp(mlp) = &self.body else {
            return embedded.f_sum_dim_intlist([-1].as_slice(), false, Kind::Float);
        };
        let n = self.numbers;
        let values = embedded.f_narrow(1, 0, n)?;
        let numbers = values.f_add(&embedded.f_narrow(1, n, n)?)?;
        let (rows, categories) = (embedded.size()[0], size(mlp.categories.tables.len()));
        if categories == 0 {
            return Ok(numbers);
        }
        let rest = embedded.f_narrow(1, 2 * n, categories * mlp.d_embedding)?;
        let rest = rest.f_reshape([rows, categories, mlp.d_embedding])?;
        let rest = rest.f_sum_dim_intlist([-1].as_slice(), false, Kind::Float)?;
        Tensor::f_cat(&[numbers, rest], 1)
    }
}

/// Section 3.1 of the paper. A number is itself and whether it is missing.
struct Mlp {
    categories: Categories,
    d_embedding: i64,
    blocks: Vec<Linear>,
    output: Linear,
    dropout: f64,
}

impl Mlp {
    fn new(
        maker: &mut Maker,
        shape: &Shape,
        (numbers, values, classes): (i64, &[usize], i64),
    ) -> Result<Self, NetworkError> {
        let Shape::Mlp { layers, width, dropout, d_embedding } = shape else {
            return Err(NetworkError::Weights("the shape is of another network".to_owned()));
        };
        let (width, d_embedding) = (size(*width), size(*d_embedding));
        let categories = Categories::new(maker, values, d_embedding)?;
        let first = 2 * numbers + size(values.len()) * d_embedding;
        let block = |number: usize| {
            let from = if number == 0 { first } else { width };
            Linear::new(maker, &format!("blocks.{number}.linear"), [from, width])
        };
        let blocks = (0..*layers).map(block).collect::<Result<_, _>>()?;
        let output = Linear::new(maker, "output", [width, classes])?;
        Ok(Self { categories, d_embedding, blocks, output, dropout: *dropout })
    }

    fn embed(&self, batch: &Batch) -> Result<Tensor, TchError> {
        let numbers = [batch.numbers.shallow_clone(), batch.missing.shallow_clone()];
        let categories = self.categories.forward(&batch.categories)?;
        let all: Vec<Tensor> = numbers.into_iter().chain(categories).collect();
        Tensor::f_cat(&all, 1)
    }

    fn score(&self, embedded: &Tensor, noise: &mut Noise) -> Result<Tensor, TchError> {
        let mut x = embedded.shallow_clone();
        for block in &self.blocks {
            x = noise.drop(block.forward(&x)?.f_relu()?, self.dropout)?;
        }
        self.output.forward(&x)
    }
}

/// Section 3.3 of the paper: pre-norm blocks with ReGLU, without a norm before the first attention.
struct Transformer {
    cls: Tensor,
    numbers: Option<Numbers>,
    categories: Categories,
    category_bias: Option<Tensor>,
    blocks: Vec<Block>,
    norm: Norm,
    output: Linear,
    d_token: i64,
}

/// A number `x` becomes `x w + b`, a missing one `m + b`.
struct Numbers {
    weight: Tensor,
    bias: Tensor,
    missing: Tensor,
}

struct Block {
    attention_norm: Option<Norm>,
    query: Linear,
    key: Linear,
    value: Linear,
    mix: Option<Linear>,
    ffn_norm: Norm,
    first: Linear,
    second: Linear,
    heads: i64,
    shares: Shares,
}

/// What is dropped in training.
#[derive(Clone, Copy)]
struct Shares {
    attention: f64,
    ffn: f64,
    residual: f64,
}

impl Transformer {
    fn new(
        maker: &mut Maker,
        shape: &Shape,
        (numbers, values, classes): (i64, &[usize], i64),
    ) -> Result<Self, NetworkError> {
        let Shape::FtTransformer { blocks, d_token, .. } = shape else {
            return Err(NetworkError::Weights("the shape is of another network".to_owned()));
        };
        let width = size(*d_token);
        let start = Start::Uniform((width as f64).powf(-0.5));
        let cls = maker.tensor("cls_embedding.weight", &[width], (start, Role::Plain))?;
        let of_numbers = |maker: &mut Maker| {
            let mut of = |part: &str, start| {
                let name = format!("cont_embeddings.{part}");
                maker.tensor(&name, &[numbers, width], (start, Role::Plain))
            };
            let (weight, bias) = (of("weight", start)?, of("bias", start)?);
            // Until training says otherwise, a missing number is as the median, 0.
            Ok::<_, NetworkError>(Numbers {
                weight,
                bias,
                missing: of("missing", Start::Constant(0.0))?,
            })
        };
        let of_numbers = if numbers > 0 { Some(of_numbers(maker)?) } else { None };
        let categories = Categories::new(maker, values, width)?;
        let category_bias = if values.is_empty() {
            None
        } else {
            let shape = [size(values.len()), width];
            Some(maker.tensor("cat_embeddings.bias", &shape, (start, Role::Plain))?)
        };
        let blocks = (0..*blocks).map(|number| Block::new(maker, shape, number));
        let blocks = blocks.collect::<Result<_, _>>()?;
        let norm = Norm::new(maker, "backbone.output.normalization", width)?;
        let output = Linear::new(maker, "backbone.output.linear", [width, classes])?;
        let numbers = of_numbers;
        Ok(Self { cls, numbers, categories, category_bias, blocks, norm, output, d_token: width })
    }

    fn embed(&self, batch: &Batch) -> Result<Tensor, TchError> {
        let mut tokens = Vec::with_capacity(2);
        if let Some(Numbers { weight, bias, missing }) = &self.numbers {
            let known = batch.numbers.f_unsqueeze(-1)?.f_mul(weight)?;
            let lacking = batch.missing.f_unsqueeze(-1)?.f_mul(missing)?;
            tokens.push(known.f_add(&lacking)?.f_add(bias)?);
        }
        if let Some(bias) = &self.category_bias {
            let categories = self.categories.forward(&batch.categories)?;
            tokens.push(Tensor::f_stack(&categories, 1)?.f_add(bias)?);
        }
        Tensor::f_cat(&tokens, 1)
    }

    fn score(&self, embedded: &Tensor, noise: &mut Noise) -> Result<Tensor, TchError> {
        let rows = embedded.size()[0];
        let cls = self.cls.f_expand([rows, 1, self.d_token], false)?;
        let mut x = Tensor::f_cat(&[cls, embedded.shallow_clone()], 1)?;
        for (number, block) in self.blocks.iter().enumerate() {
            // Behind the last block [CLS] alone is seen.
            x = block.forward(&x, number + 1 == self.blocks.len(), noise)?;
        }
        self.output.forward(&self.norm.forward(&x.f_select(1, 0)?)?.f_relu()?)
    }
}

impl Block {
    fn new(maker: &mut Maker, shape: &Shape, number: usize) -> Result<Self, NetworkError> {
        let Shape::FtTransformer {
            d_token,
            attention_heads,
            ffn_hidden,
            attention_dropout,
            ffn_dropout,
            residual_dropout,
            ..
        } = shape
        else {
            return Err(NetworkError::Weights("the shape is of another network".to_owned()));
        };
        let (d, hidden, heads) = (size(*d_token), size(*ffn_hidden), size(*attention_heads));
        let name = |part: &str| format!("backbone.blocks.{number}.{part}");
        let attention_norm = if number == 0 {
            None
        } else {
            Some(Norm::new(maker, &name("attention_normalization"), d)?)
        };
        let mut linear = |part: &str, shape| Linear::new(maker, &name(part), shape);
        let query = linear("attention.W_q", [d, d])?;
        let key = linear("attention.W_k", [d, d])?;
        let value = linear("attention.W_v", [d, d])?;
        let mix = if heads > 1 { Some(linear("attention.W_out", [d, d])?) } else { None };
        let first = linear("ffn.linear1", [d, 2 * hidden])?;
        let second = linear("ffn.linear2", [hidden, d])?;
        let ffn_norm = Norm::new(maker, &name("ffn_normalization"), d)?;
        let shares = Shares {
            attention: *attention_dropout,
            ffn: *ffn_dropout,
            residual: *residual_dropout,
        };
        Ok(Self { attention_norm, query, key, value, mix, ffn_norm, first, second, heads, shares })
    }

    /// `[B, T, D]` → `[B, T, D]`, or `[B, 1, D]` where only the first token is asked for.
    fn forward(&self, x: &Tensor, only_first: bool, noise: &mut Noise) -> Result<Tensor, TchError> {
        let first =
            |x: &Tensor| if only_first { x.f_narrow(1, 0, 1) } else { Ok(x.shallow_clone()) };
        let normed = match &self.attention_norm {
            Some(norm) => norm.forward(x)?,
            None => x.shallow_clone(),
        };
        let attended = self.attend(&first(&normed)?, &normed, noise)?;
        let x = first(x)?.f_add(&noise.drop(attended, self.shares.residual)?)?;
        let hidden = self.first.forward(&self.ffn_norm.forward(&x)?)?.f_chunk(2, -1)?;
        let hidden = hidden[0].f_mul(&hidden[1].f_relu()?)?;
        let added = self.second.forward(&noise.drop(hidden, self.shares.ffn)?)?;
        x.f_add(&noise.drop(added, self.shares.residual)?)
    }

    fn attend(&self, from: &Tensor, to: &Tensor, noise: &mut Noise) -> Result<Tensor, TchError> {
        let heads = |x: Tensor| {
            let (rows, tokens, width) = x.size3()?;
            x.f_view([rows, tokens, self.heads, width / self.heads])?.f_transpose(1, 2)
        };
        let query = heads(self.query.forward(from)?)?;
        let key = heads(self.key.forward(to)?)?;
        let value = heads(self.value.forward(to)?)?;
        let (rows, tokens, width) = from.size3()?;
        let scale = ((width / self.heads) as f64).sqrt();
        let attention = query.f_matmul(&key.f_transpose(-2, -1)?)?.f_div_scalar(scale)?;
        let attention = noise.drop(attention.f_softmax(-1, Kind::Float)?, self.shares.attention)?;
        let mixed = attention.f_matmul(&value)?.f_transpose(1, 2)?;
        let mixed = mixed.f_reshape([rows, tokens, width])?;
        match &self.mix {
            Some(mix) => mix.forward(&mixed),
            None => Ok(mixed),
        }
    }
}

/// A size for libtorch.
pub(in super::super) fn size(size: usize) -> i64 {
    i64::try_from(size).unwrap_or(i64::MAX)
}
