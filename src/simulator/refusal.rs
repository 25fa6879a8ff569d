//! Why the simulated service refuses a call, and with which public code.
//!
//! The documentation lists the codes but rarely the mistakes that cause them; each choice is explained here. No
//! refusal repeats a UserSig or a key.

/// A call answered with `ActionStatus` FAIL and a code.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum Refusal {
    /// 60002, "HTTP parsing error": invalid `random`, `contenttype` or set of parameters.
    #[error("the URL parameters are wrong: {0}")]
    UrlParameters(&'static str),
    /// 60004, "identifier or UserSig in the URL is wrong".
    #[error("the URL names no identifier")]
    IdentifierMissing,
    /// 60012, "the request needs an SDKAppID".
    #[error("the URL names no sdkappid")]
    SdkAppIdMissing,
    /// 60006, "invalid SDKAppID".
    #[error("the sdkappid of the URL is not this app's")]
    SdkAppIdUnknown,
    /// 60010, "needs an app admin".
    #[error("the identifier of the URL is not this app's admin")]
    NotAdmin,
    /// 60011, "the SDKAppID's calls are too frequent": the slow-down code for the whole app.
    #[error("too many calls for this app in one second")]
    TooManyCalls,
    /// 70002, "the UserSig is empty".
    #[error("the URL carries no usersig")]
    UserSigMissing,
    /// 70003, "the UserSig is corrupt".
    #[error("the usersig cannot be decoded: {0}")]
    UserSigUndecodable(&'static str),
    /// 70009, "the UserSig does not verify": made with another key.
    #[error("the usersig was not made with this app's key")]
    UserSigWrongKey,
    /// 70001, "the UserSig has expired".
    #[error("the usersig has expired")]
    UserSigExpired,
    /// 70013, "the identifier of the UserSig is another than that of the request".
    #[error("the usersig was made for another identifier")]
    UserSigOtherIdentifier,
    /// 70014, "the SDKAppID of the UserSig is another than that of the request".
    #[error("the usersig was made for another sdkappid")]
    UserSigOtherApp,
    /// 10004, "bad parameter".
    #[error("the request body is wrong: {0}")]
    Body(String),
    /// 10015, "bad group id".
    #[error("the group id is malformed")]
    GroupIdMalformed,
    /// 10007, "no permission": Communities and topics, known by their form.
    #[error("groups of this type have no read receipts")]
    GroupTypeWithoutReceipts,
    /// 10010, "the group is gone".
    #[error("the group does not exist")]
    GroupUnknown,
    /// 10060, "more members than receipts allow".
    #[error("the group has too many members for read receipts")]
    GroupTooLarge,
    /// 10018, "the answer is over 1 MB".
    #[error("the answer would be larger than 1 MB")]
    AnswerTooLarge,
    /// A code configured by a test.
    #[error("code {0} as configured")]
    Ordered(i32),
}

impl Refusal {
    /// The `ErrorCode` of the answer.
    pub fn code(&self) -> i32 {
        match self {
            Self::UrlParameters(_) => 60002,
            Self::IdentifierMissing => 60004,
            Self::SdkAppIdMissing => 60012,
            Self::SdkAppIdUnknown => 60006,
            Self::NotAdmin => 60010,
            Self::TooManyCalls => 60011,
            Self::UserSigMissing => 70002,
            Self::UserSigUndecodable(_) => 70003,
            Self::UserSigWrongKey => 70009,
            Self::UserSigExpired => 70001,
            Self::UserSigOtherIdentifier => 70013,
            Self::UserSigOtherApp => 70014,
            Self::Body(_) => 10004,
            Self::GroupIdMalformed => 10015,
            Self::GroupTypeWithoutReceipts => 10007,
            Self::GroupUnknown => 10010,
            Self::GroupTooLarge => 10060,
            Self::AnswerTooLarge => 10018,
            Self::Ordered(code) => *code,
        }
    }
}
