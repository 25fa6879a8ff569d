//! Domain values in the JSON of the control interface.

/// serde for types that are parsed from and printed as text.
pub(in crate::simulator) mod as_text {
    use std::{fmt::Display, str::FromStr};

    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    pub fn serialize<T: Display, S: Serializer>(value: &T, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(value)
    }

    pub fn deserialize<'de, T, D>(deserializer: D) -> Result<T, D::Error>
    where
        T: FromStr<Err: Display>,
        D: Deserializer<'de>,
    {
        String::deserialize(deserializer)?.parse().map_err(D::Error::custom)
    }
}

/// serde for a seq as a number.
pub(in crate::simulator) mod as_number {
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    use crate::domain::MsgSeq;

    #[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
    pub fn serialize<S: Serializer>(seq: &MsgSeq, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_u32(seq.get())
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<MsgSeq, D::Error> {
        MsgSeq::try_from(i64::deserialize(deserializer)?).map_err(D::Error::custom)
    }
}
