//! Quota responses: figures that make sense, or a code.

use keypool_providers::catalogue;

use crate::fuzz;
use crate::source::Source;

/// Good responses of every form.
const SAMPLES: &[&str] = &[
    r#"{"key":{"usage":150,"limit":1000},"account":{"plan_usage":500,"plan_limit":15000,"paygo_usage":25,"paygo_limit":100}}"#,
    r#"{"key":{"usage":1,"limit":null},"account":{"plan_usage":1,"plan_limit":1000,"paygo_usage":0,"paygo_limit":null}}"#,
    r#"{"is_available":true,"balance_infos":[{"currency":"CNY","total_balance":"110.00"},{"currency":"USD","total_balance":"-1"}]}"#,
    r#"{"data":{"limit":100,"limit_remaining":74.5,"effective_budget":{"remaining_usd":5}}}"#,
    r#"{"code":0,"status":true,"data":{"available_balance":49.58,"voucher_balance":46.58,"cash_balance":3.0}}"#,
    r#"{"code":20000,"status":true,"data":{"balance":"0.88","chargeBalance":"88.00","totalBalance":"88.88"}}"#,
];
const HOSTS: &[&str] = &["api.moonshot.cn", "api.siliconflow.com", "[::1]:80", ""];

#[test]
fn quotas_are_finite_and_not_negative_or_have_a_code() {
    fuzz!(|source: &mut Source<'_>| {
        let host = source.one_of(HOSTS);
        let body = match source.byte() % 4 {
            0 => source.body(),
            1 => source.object(),
            _ => {
                let sample = source.one_of(SAMPLES).as_bytes().to_vec();
                source.damaged(sample)
            }
        };
        for dialect in catalogue::ALL {
            match dialect.parse_quota(host, &body) {
                Ok(figures) => {
                    let amounts = [figures.remaining, figures.limit];
                    let is_fit = |amount: &f64| amount.is_finite() && amount.is_sign_positive();
                    assert!(amounts.iter().flatten().all(is_fit), "{figures:?}");
                    assert!((3..=16).contains(&figures.unit.len()), "{figures:?}");
                    assert!(dialect.quota.is_some(), "{}", dialect.name);
                }
                Err(error) => {
                    let code = error.as_str().bytes();
                    assert!(
                        code.into_iter()
                            .all(|b| b.is_ascii_lowercase() || b == b'_')
                    );
                }
            }
        }
    });
}
