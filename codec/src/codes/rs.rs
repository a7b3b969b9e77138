//! Reed-Solomon over GF(256): any k and m up to 255 shares; m may be 0, which is plain striping.
//!
//! The crate `reed-solomon-erasure` provides the arithmetic, its vector kernels and the generator matrix;
//! both produce the same shares (`rs_makes_the_bytes_that_its_crate_makes`). This module differs in three
//! ways. Decoding computes only the wanted shares. It works in tiles that stay in the cache. It inverts a
//! matrix of the lost data shares only. A symbol is one byte, so a stripe could be one byte; it is 64 bytes,
//! the row of the other codes.
//!
//! ```text
//! parity j  =  c(j,0) * data 0  +  c(j,1) * data 1  + .. +  c(j,k-1) * data k-1
//! ```

use std::ops::Range;
use std::sync::Arc;

use reed_solomon_erasure::galois_8::{self, ReedSolomon};

use crate::Stores;
use crate::cache::Cache;
use crate::code::{check_lengths, check_sets, check_update};
use crate::plan::CodeId;
use crate::xor::ROW_BYTES;
use crate::xor::scalar::add_bytes;
use crate::{Code, CodeError, Piece, RepairPlan, ShareRead, ShareSet, Verdict};

/// The name of the code.
pub const NAME: &str = "rs";

/// Bytes of each share that are processed at a time. With 4096 the tiles of all shares fit into the
/// second-level cache, and mostly into the first.
const TILE_BYTES: usize = 4096;
/// Largest number of decode matrices that are cached.
const MATRICES_MAX: usize = 256;

pub(crate) fn make(k: usize, m: usize) -> Result<Arc<dyn Code>, CodeError> {
    // The crate's C code is compiled for AVX2. An error here is better than a process killed by an unknown
    // instruction.
    #[cfg(target_arch = "x86_64")]
    if !std::is_x86_feature_detected!("avx2") {
        let rule = "a processor with AVX2 (cauchy does not)";
        return Err(CodeError::Geometry { code: NAME, k, m, rule, known: super::names() });
    }
    Ok(Arc::new(Rs::new(k, m)?))
}

/// The Reed-Solomon code for one k and m.
#[derive(Debug)]
pub struct Rs {
    id: CodeId,
    /// Coefficients of each parity share over the data shares.
    parity: Vec<Vec<u8>>,
    decodes: Cache<(ShareSet, ShareSet), Arc<Vec<Vec<u8>>>>,
}

impl Rs {
    /// Returns the code with k data and m parity shares. Fails when k is 0 or k + m is above 255.
    pub fn new(k: usize, m: usize) -> Result<Rs, CodeError> {
        if k == 0 || m > 255 || k > 255 - m {
            let rule = "k >= 1 and k + m <= 255";
            return Err(CodeError::Geometry { code: NAME, k, m, rule, known: super::names() });
        }
        let parity = parity_matrix(k, m);
        Ok(Rs { id: CodeId { name: NAME, k, m }, parity, decodes: Cache::new(MATRICES_MAX) })
    }

    /// Returns the coefficients of the `lost` shares over the k shares `sources`; both are ascending.
    ///
    /// Let x be the lost data and p the parity among the sources, which is as many shares as x. Then
    /// `A x = p + B d`, where A and B are the coefficients of p over the lost data and over the present data d.
    /// So `x = A^-1 p + A^-1 B d`, and a lost parity share follows from d and x.
    fn decode_matrix(&self, sources: ShareSet, lost: ShareSet) -> Vec<Vec<u8>> {
        let k = self.id.k;
        let missing: Vec<usize> = (0..k).filter(|&share| !sources.contains(share)).collect();
        let used: Vec<&Vec<u8>> =
            sources.iter().filter(|&share| share >= k).map(|s| &self.parity[s - k]).collect();
        let square = used.iter().map(|row| missing.iter().map(|&share| row[share]).collect()).collect();
        let inverse = invert(square);
        let data: Vec<usize> = sources.iter().filter(|&share| share < k).collect();
        // Rows of the missing data shares over all sources: the present data first, then the parity used.
        let missing_rows: Vec<Vec<u8>> = inverse
            .iter()
            .map(|row| {
                let over_data =
                    data.iter().map(|&share| dot(row.iter().zip(used.iter().map(|used| &used[share]))));
                over_data.chain(row.iter().copied()).collect()
            })
            .collect();
        let parity_row = |parity: &Vec<u8>| {
            let mut row: Vec<u8> = data.iter().map(|&share| parity[share]).collect();
            row.resize(k, 0);
            for (&share, missing_row) in missing.iter().zip(&missing_rows) {
                row.iter_mut().zip(missing_row).for_each(|(sum, &c)| *sum ^= galois_8::mul(parity[share], c));
            }
            row
        };
        let row_of = |share: usize| match missing.iter().position(|&missing| missing == share) {
            Some(i) => missing_rows[i].clone(),
            None => parity_row(&self.parity[share - k]),
        };
        lost.iter().map(row_of).collect()
    }

    /// Returns whether an error of this share alone explains the `syndromes`. A syndrome is the stored parity
    /// XOR the computed parity.
    fn explains(&self, share: usize, syndromes: &[Vec<u8>]) -> bool {
        let Some(data) = (share < self.id.k).then_some(share) else {
            let is_zero = |syndrome: &Vec<u8>| syndrome.iter().all(|&byte| byte == 0);
            return syndromes.iter().enumerate().all(|(j, s)| j == share - self.id.k || is_zero(s));
        };
        // An error e in a data share makes syndrome j equal to c(j) e, so c(0) s(j) = c(j) s(0).
        let first = self.parity[0][data];
        self.parity.iter().zip(syndromes).all(|(row, syndrome)| {
            let mut pairs = syndrome.iter().zip(&syndromes[0]);
            pairs.all(|(&sj, &s0)| galois_8::mul(first, sj) == galois_8::mul(row[data], s0))
        })
    }
}

impl Code for Rs {
    fn name(&self) -> &'static str {
        NAME
    }

    fn k(&self) -> usize {
        self.id.k
    }

    fn m(&self) -> usize {
        self.id.m
    }

    fn rows(&self) -> usize {
        1
    }

    fn stripe_bytes(&self) -> usize {
        ROW_BYTES
    }

    fn share_bytes(&self, block_bytes: usize) -> usize {
        block_bytes.div_ceil(self.id.k * ROW_BYTES) * ROW_BYTES
    }

    fn locate(&self, block_bytes: usize, range: Range<usize>) -> Vec<Piece> {
        let share_bytes = self.share_bytes(block_bytes);
        let end = range.end.min(block_bytes);
        let mut pieces = Vec::new();
        let mut at = range.start;
        while at < end {
            let (share, share_offset) = (at / share_bytes, at % share_bytes);
            let len = (share_bytes - share_offset).min(end - at);
            pieces.push(Piece { share, share_offset, block_offset: at, len });
            at += len;
        }
        pieces
    }

    fn encode_with(&self, shares: &mut [&mut [u8]], _: Stores) -> Result<(), CodeError> {
        let n = self.n();
        check_lengths(shares.iter().map(|share| share.len()), n, ROW_BYTES, ShareSet::all(n))?;
        let (data, parity) = shares.split_at_mut(self.id.k);
        let inputs: Vec<&[u8]> = data.iter().map(|share| &**share).collect();
        let mut outputs: Vec<&mut [u8]> = parity.iter_mut().map(|share| &mut **share).collect();
        combine(&self.parity, &inputs, &mut outputs);
        Ok(())
    }

    fn reconstruct_with(
        &self,
        shares: &mut [&mut [u8]],
        present: ShareSet,
        wanted: ShareSet,
        _: Stores,
    ) -> Result<(), CodeError> {
        check_sets(present, wanted, self.n(), self.id.k)?;
        let lens = shares.iter().map(|share| share.len());
        check_lengths(lens, self.n(), ROW_BYTES, present.union(wanted))?;
        let lost = wanted.minus(present);
        // The lowest shares are data shares where there are any, and decoding from data costs least.
        let sources = present.lowest(self.id.k);
        let make = || Ok::<_, CodeError>(Arc::new(self.decode_matrix(sources, lost)));
        let matrix = self.decodes.get_or_make((sources, lost), make)?;
        let (mut inputs, mut outputs) = (Vec::with_capacity(self.id.k), Vec::with_capacity(lost.len()));
        for (share, buffer) in shares.iter_mut().enumerate() {
            if sources.contains(share) {
                inputs.push(&**buffer);
            } else if lost.contains(share) {
                outputs.push(&mut **buffer);
            }
        }
        combine(&matrix, &inputs, &mut outputs);
        Ok(())
    }

    fn verify(&self, shares: &[&[u8]]) -> Result<Verdict, CodeError> {
        let n = self.n();
        let len = check_lengths(shares.iter().map(|share| share.len()), n, ROW_BYTES, ShareSet::all(n))?;
        let (data, parity) = shares.split_at(self.id.k);
        let mut clean = true;
        let mut suspects = ShareSet::all(n);
        for begin in (0..len).step_by(TILE_BYTES) {
            let tile = begin..len.min(begin + TILE_BYTES);
            let inputs: Vec<&[u8]> = data.iter().map(|share| &share[tile.clone()]).collect();
            let mut syndromes = vec![vec![0; tile.len()]; self.id.m];
            combine(&self.parity, &inputs, &mut syndromes);
            syndromes.iter_mut().zip(parity).for_each(|(s, parity)| add_bytes(s, &parity[tile.clone()]));
            if syndromes.iter().flatten().any(|&byte| byte != 0) {
                clean = false;
                suspects = suspects.iter().filter(|&share| self.explains(share, &syndromes)).collect();
            }
        }
        let mut suspects = suspects.iter();
        Ok(match (clean, suspects.next(), suspects.next()) {
            (true, _, _) => Verdict::Clean,
            (false, Some(share), None) => Verdict::WrongShare(share),
            _ => Verdict::Inconsistent,
        })
    }

    fn update(
        &self,
        share: usize,
        offset: usize,
        delta: &[u8],
        shares: &mut [&mut [u8]],
    ) -> Result<(), CodeError> {
        let held = check_update(share, offset, delta, shares, self.n(), ROW_BYTES)?;
        if share >= self.id.k {
            return Err(CodeError::NotData { share, offset });
        }
        if held.is_none() || delta.is_empty() {
            return Ok(());
        }
        for (row, buffer) in self.parity.iter().zip(&mut shares[self.id.k..]) {
            if !buffer.is_empty() {
                galois_8::mul_slice_xor(row[share], delta, &mut buffer[offset..][..delta.len()]);
            }
        }
        Ok(())
    }

    fn repair_plan(&self, lost: ShareSet, available: ShareSet) -> Result<RepairPlan, CodeError> {
        let available = available.minus(lost);
        check_sets(available, lost, self.n(), self.id.k)?;
        let sources = if lost.is_empty() { ShareSet::EMPTY } else { available.lowest(self.id.k) };
        Ok(RepairPlan {
            code: self.id,
            lost,
            reads: sources.iter().map(|share| ShareRead { share, rows: vec![0] }).collect(),
            rows: 1,
            row_bytes: ROW_BYTES,
            schedule: None,
        })
    }

    fn reconstruct_from_plan(&self, plan: &RepairPlan, shares: &mut [&mut [u8]]) -> Result<(), CodeError> {
        self.id.check(plan)?;
        if plan.lost.is_empty() {
            return Ok(());
        }
        self.reconstruct(shares, plan.sources(), plan.lost)
    }
}

/// Returns the coefficients of the crate's parity shares: the parity of unit vectors, one byte of each share
/// for each data share.
fn parity_matrix(k: usize, m: usize) -> Vec<Vec<u8>> {
    if m == 0 {
        return Vec::new();
    }
    let crate_code = ReedSolomon::new(k, m).expect("k and m are positive and at most 255 together");
    let unit: Vec<Vec<u8>> = (0..k).map(|i| (0..k).map(|j| u8::from(i == j)).collect()).collect();
    let mut parity = vec![vec![0; k]; m];
    crate_code.encode_sep(&unit, &mut parity).expect("k data and m parity shares of k bytes each");
    parity
}

/// Sets each output to the sum of the inputs with the coefficients of its row. All buffers have the same
/// length.
fn combine<O: AsMut<[u8]>>(matrix: &[Vec<u8>], inputs: &[&[u8]], outputs: &mut [O]) {
    let len = inputs.first().map_or(0, |input| input.len());
    for begin in (0..len).step_by(TILE_BYTES) {
        let tile = begin..len.min(begin + TILE_BYTES);
        for (row, output) in matrix.iter().zip(outputs.iter_mut()) {
            let output = &mut output.as_mut()[tile.clone()];
            galois_8::mul_slice(row[0], &inputs[0][tile.clone()], output);
            for (&c, input) in row.iter().zip(inputs).skip(1) {
                galois_8::mul_slice_xor(c, &input[tile.clone()], output);
            }
        }
    }
}

fn dot<'a>(pairs: impl Iterator<Item = (&'a u8, &'a u8)>) -> u8 {
    pairs.fold(0, |sum, (&a, &b)| sum ^ galois_8::mul(a, b))
}

/// Inverts a matrix by Gauss-Jordan elimination. Every square submatrix of an MDS code's parity matrix has an
/// inverse.
fn invert(mut matrix: Vec<Vec<u8>>) -> Vec<Vec<u8>> {
    let size = matrix.len();
    for (i, row) in matrix.iter_mut().enumerate() {
        row.extend((0..size).map(|j| u8::from(i == j)));
    }
    for column in 0..size {
        let pivot = (column..size).find(|&row| matrix[row][column] != 0).expect("the code is MDS");
        matrix.swap(column, pivot);
        let scale = matrix[column][column];
        matrix[column].iter_mut().for_each(|c| *c = galois_8::div(*c, scale));
        let pivot = matrix[column].clone();
        for (_, row) in matrix.iter_mut().enumerate().filter(|(i, _)| *i != column) {
            let scale = row[column];
            row.iter_mut().zip(&pivot).for_each(|(c, &p)| *c ^= galois_8::mul(scale, p));
        }
    }
    matrix.into_iter().map(|row| row[size..].to_vec()).collect()
}
