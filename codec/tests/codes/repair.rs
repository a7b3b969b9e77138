//! Repair plans read few rows and make the lost shares from them.

use rain_codec::{CodeError, RepairPlan};

use super::*;

/// Executes the plan as two machines would: sources send packed rows, all other bytes are garbage or absent.
fn execute(code: &dyn Code, plan: &RepairPlan, shares: &[Vec<u8>]) -> Vec<Vec<u8>> {
    let share_bytes = shares[0].len();
    let mut buffers = vec![Vec::new(); code.n()];
    let mut sent = 0;
    for read in plan.reads() {
        let packed = plan.pack(read.share, &shares[read.share]);
        sent += packed.len();
        buffers[read.share] = vec![0xdb; share_bytes];
        plan.unpack(read.share, &packed, &mut buffers[read.share]);
    }
    assert_eq!(sent, plan.bytes(share_bytes));
    plan.lost().iter().for_each(|lost| buffers[lost] = vec![0xdb; share_bytes]);
    code.reconstruct_from_plan(plan, &mut views(&mut buffers)).expect("the plan suits");
    buffers
}

#[test]
fn every_plan_rebuilds_what_it_promises_from_what_it_names() {
    for code in assorted_codes() {
        let (n, m) = (code.n(), code.m());
        let all = ShareSet::all(n);
        let (_, shares) = full_stripes(&*code, 3);
        // Large codes: all single losses, and some of the larger ones.
        let few = |(number, gone): &(usize, ShareSet)| n <= 9 || gone.len() == 1 || number % 29 == 0;
        for (_, gone) in patterns(n, m).enumerate().filter(few) {
            // All missing shares at once, and each alone while the others stay missing.
            let single = gone.iter().map(|share| ShareSet::EMPTY.with(share));
            for lost in single.chain([gone]) {
                let plan = code.repair_plan(lost, all.minus(gone)).unwrap();
                assert!(plan.sources().is_subset(all.minus(gone)));
                let (reads, most) = (plan.rows_per_stripe(), code.k() * code.rows());
                assert!(
                    reads <= most,
                    "{} {lost} without {gone}: {reads} rows, k shares have {most}",
                    code.name()
                );
                assert_eq!(plan.stripe_bytes(), code.stripe_bytes());
                let made = execute(&*code, &plan, &shares);
                assert!(
                    lost.iter().all(|share| made[share] == shares[share]),
                    "{} {lost} {gone}",
                    code.name()
                );
            }
        }
    }
}

#[test]
fn rdp_reads_three_quarters_to_make_one_data_share_again() {
    // Xiang et al. 2010: 3 (p-1)^2 / 4 packets instead of (p-1)^2, for any data disk.
    for (k, packets) in [(2, 3), (4, 12), (16, 192)] {
        let code = code("rdp", k, 2);
        let all = ShareSet::all(k + 2);
        assert_eq!(packets * 4, 3 * k * k);
        for lost in 0..k {
            let plan = code.repair_plan(ShareSet::EMPTY.with(lost), all.without(lost)).unwrap();
            assert_eq!(plan.rows_per_stripe(), packets, "share {lost} of rdp {k}+2");
            assert_eq!(plan.bytes_per_stripe(), packets * 64);
            assert_eq!(plan.bytes(code.stripe_bytes() * 10), packets * 640);
        }
    }
}

#[test]
fn rdp_reads_less_than_k_shares_when_shortened_too() {
    for k in [3, 6, 10, 13] {
        let code = code("rdp", k, 2);
        let all = ShareSet::all(k + 2);
        for lost in 0..k {
            let plan = code.repair_plan(ShareSet::EMPTY.with(lost), all.without(lost)).unwrap();
            assert!(plan.rows_per_stripe() < k * code.rows(), "share {lost} of rdp {k}+2");
        }
    }
}

#[test]
fn sums_of_equations_read_less_than_single_ones() {
    // Rows read for each single data share of a stripe, added up. Each share has k whole shares to read from.
    // With one equation for each lost packet Cauchy codes read nine tenths of that, and STAR 4+3 the same.
    let codes = [
        ("cauchy", 6, 2, 114),
        ("cauchy", 6, 3, 106),
        ("cauchy", 8, 4, 188),
        ("cauchy", 10, 4, 291),
        ("evenodd", 4, 2, 48),
        ("star", 4, 3, 48),
    ];
    let rows = |(name, k, m, _): (&'static str, usize, usize, usize)| {
        let (code, all) = (code(name, k, m), ShareSet::all(k + m));
        let plan = |lost| code.repair_plan(ShareSet::EMPTY.with(lost), all.without(lost)).unwrap();
        (name, k, m, (0..k).map(|lost| plan(lost).rows_per_stripe()).sum())
    };
    assert_eq!(codes.map(rows), codes);
}

#[test]
fn rs_reads_k_whole_shares() {
    let code = code("rs", 6, 3);
    let lost = ShareSet::EMPTY.with(2).with(7);
    let plan = code.repair_plan(lost, ShareSet::all(9).minus(lost).without(0)).unwrap();
    assert_eq!(plan.sources().len(), 6);
    assert_eq!(plan.bytes(64 * 100), 6 * 64 * 100);
}

#[test]
fn nothing_lost_reads_nothing() {
    for code in assorted_codes() {
        let (_, shares) = full_stripes(&*code, 1);
        let plan = code.repair_plan(ShareSet::EMPTY, ShareSet::all(code.n())).unwrap();
        assert_eq!((plan.bytes_per_stripe(), plan.reads().len()), (0, 0));
        assert!(execute(&*code, &plan, &shares).iter().all(Vec::is_empty));
    }
}

#[test]
fn too_little_to_repair_from_and_foreign_plans_are_refused() {
    let rdp = code("rdp", 4, 2);
    let lost = ShareSet::EMPTY.with(0);
    let present: ShareSet = [0, 1, 2, 3].into_iter().collect();
    let error = rdp.repair_plan(lost, present).unwrap_err();
    // A lost share is not a source, even where the caller lists it.
    assert_eq!(error, CodeError::TooFewShares { present: present.without(0), needed: 4 });
    assert_eq!(error.to_string(), "3 shares are there ({1, 2, 3}), 4 are needed");
    let plan = rdp.repair_plan(lost, ShareSet::all(6)).unwrap();
    let mut shares = vec![vec![0; 256]; 6];
    let error = code("rs", 4, 2).reconstruct_from_plan(&plan, &mut views(&mut shares)).unwrap_err();
    assert_eq!(error.to_string(), "the plan is for rdp 4+2, the code is rs 4+2");
}
