//! The texts of what the proxy refuses by itself, and the gate's denials as a client is told of them.

use hyper::StatusCode;

use crate::egress::error::{Lost, Refusal};
use crate::egress::held::Denial;
use crate::model::ReasonCode;

/// Something that costs what no price of the policy says.
pub(super) fn unpriced(what: &str) -> Refusal {
    Refusal::forbidden(format!(
        "[weir] denied: {what} has no price in the policy, and an unknown price is a refusal. Send the request without \
         it; retry only with a changed request."
    ))
}

/// A denial of the gate: money and tokens that are spent are a matter of payment, everything else is forbidden.
pub(super) fn denied(denial: Denial) -> Refusal {
    let status = match denial.code {
        ReasonCode::BudgetExhausted => StatusCode::PAYMENT_REQUIRED,
        _ => StatusCode::FORBIDDEN,
    };
    Refusal::new(status, denial.text)
}

/// An upstream that gave no answer.
pub(super) fn lost(lost: Lost) -> Refusal {
    if lost.is_unsent() {
        return Refusal::new(StatusCode::BAD_GATEWAY, format!("{lost}; nothing was sent and nothing is charged"));
    }
    Refusal::new(StatusCode::GATEWAY_TIMEOUT, format!("{lost}; what was held for the request counts as spent"))
}

/// At most 60 characters of `text`, without any that a terminal would act upon.
pub(super) fn shown(text: &str) -> String {
    text.chars().take(60).map(|c| if c.is_ascii_graphic() || c == ' ' { c } else { '?' }).collect()
}
