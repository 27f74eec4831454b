//! Classifies every NAL unit type of H.264 (ITU-T H.264, table 7-1) and H.265 (ITU-T H.265, table 7-1).
//!
//! The sealed part of an access unit begins inside its first slice. All units before the slice are therefore readable
//! on the way. Only units that are known to carry no picture may stand there, or be held back for a slice. Reserved and
//! unspecified types and slices of other kinds are refused, because their content is unknown.
#![deny(clippy::indexing_slicing)]

/// The standard of a byte stream. The bytes determine it, because the signalled standard has been seen to be wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Standard {
    /// ITU-T H.264.
    H264,
    /// ITU-T H.265.
    H265,
}

/// The treatment of a NAL unit that does not follow the first slice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Class {
    /// Carries a picture. The sealed part begins in it.
    Slice,
    /// Describes pictures. It stays readable, and is held back if no slice follows.
    ParameterSet,
    /// Separates or pads, in a form too small or too regular for a picture. It is treated as a parameter set.
    Separator,
    /// Supplemental information. It is removed, so that the clear header stays below 256 bytes and captions never leave
    /// in the clear.
    Sei,
    /// Makes the access unit malformed.
    Refused,
}

use Class::{ParameterSet, Refused, Sei, Separator, Slice};

/// The types of H.264, 0 to 31, by number.
pub(crate) static H264: [(&str, Class); 32] = [
    ("unspecified 0", Refused),
    ("slice", Slice),
    ("data partition A", Refused),
    ("data partition B", Refused),
    ("data partition C", Refused),
    ("IDR slice", Slice),
    ("SEI", Sei),
    ("sequence parameter set", ParameterSet),
    ("picture parameter set", ParameterSet),
    ("access unit delimiter", Separator),
    ("end of sequence", Separator),
    ("end of stream", Separator),
    ("filler data", Separator),
    ("sequence parameter set extension", ParameterSet),
    ("prefix", Refused),
    ("subset sequence parameter set", ParameterSet),
    ("depth parameter set", ParameterSet),
    ("reserved 17", Refused),
    ("reserved 18", Refused),
    ("auxiliary slice", Refused),
    ("slice extension", Refused),
    ("depth slice extension", Refused),
    ("reserved 22", Refused),
    ("reserved 23", Refused),
    ("unspecified 24", Refused),
    ("unspecified 25", Refused),
    ("unspecified 26", Refused),
    ("unspecified 27", Refused),
    ("unspecified 28", Refused),
    ("unspecified 29", Refused),
    ("unspecified 30", Refused),
    ("unspecified 31", Refused),
];

/// The types of H.265, 0 to 63, by number.
pub(crate) static H265: [(&str, Class); 64] = [
    ("TRAIL_N", Slice),
    ("TRAIL_R", Slice),
    ("TSA_N", Slice),
    ("TSA_R", Slice),
    ("STSA_N", Slice),
    ("STSA_R", Slice),
    ("RADL_N", Slice),
    ("RADL_R", Slice),
    ("RASL_N", Slice),
    ("RASL_R", Slice),
    ("RSV_VCL_N10", Refused),
    ("RSV_VCL_R11", Refused),
    ("RSV_VCL_N12", Refused),
    ("RSV_VCL_R13", Refused),
    ("RSV_VCL_N14", Refused),
    ("RSV_VCL_R15", Refused),
    ("BLA_W_LP", Slice),
    ("BLA_W_RADL", Slice),
    ("BLA_N_LP", Slice),
    ("IDR_W_RADL", Slice),
    ("IDR_N_LP", Slice),
    ("CRA_NUT", Slice),
    ("RSV_IRAP_VCL22", Refused),
    ("RSV_IRAP_VCL23", Refused),
    ("RSV_VCL24", Refused),
    ("RSV_VCL25", Refused),
    ("RSV_VCL26", Refused),
    ("RSV_VCL27", Refused),
    ("RSV_VCL28", Refused),
    ("RSV_VCL29", Refused),
    ("RSV_VCL30", Refused),
    ("RSV_VCL31", Refused),
    ("VPS_NUT", ParameterSet),
    ("SPS_NUT", ParameterSet),
    ("PPS_NUT", ParameterSet),
    ("AUD_NUT", Separator),
    ("EOS_NUT", Separator),
    ("EOB_NUT", Separator),
    ("FD_NUT", Separator),
    ("PREFIX_SEI_NUT", Sei),
    ("SUFFIX_SEI_NUT", Sei),
    ("RSV_NVCL41", Refused),
    ("RSV_NVCL42", Refused),
    ("RSV_NVCL43", Refused),
    ("RSV_NVCL44", Refused),
    ("RSV_NVCL45", Refused),
    ("RSV_NVCL46", Refused),
    ("RSV_NVCL47", Refused),
    ("UNSPEC48", Refused),
    ("UNSPEC49", Refused),
    ("UNSPEC50", Refused),
    ("UNSPEC51", Refused),
    ("UNSPEC52", Refused),
    ("UNSPEC53", Refused),
    ("UNSPEC54", Refused),
    ("UNSPEC55", Refused),
    ("UNSPEC56", Refused),
    ("UNSPEC57", Refused),
    ("UNSPEC58", Refused),
    ("UNSPEC59", Refused),
    ("UNSPEC60", Refused),
    ("UNSPEC61", Refused),
    ("UNSPEC62", Refused),
    ("UNSPEC63", Refused),
];

/// Returns the type in an H.264 NAL header.
pub(crate) fn h264_type(header: u8) -> u8 {
    header & 0x1F
}

/// Returns the type in the first byte of an H.265 NAL header.
pub(crate) fn h265_type(header: u8) -> u8 {
    (header >> 1) & 0x3F
}

/// The bit of a NAL header that is 0 in both standards.
const FORBIDDEN_ZERO_BIT: u8 = 0x80;

impl Standard {
    /// Returns the length of a NAL header in bytes.
    pub(crate) const fn header_len(self) -> usize {
        match self {
            Self::H264 => 1,
            Self::H265 => 2,
        }
    }

    /// Returns the name of the codec that follows the standard.
    #[cfg(feature = "hazmat")]
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::H264 => "h264",
            Self::H265 => "h265",
        }
    }

    /// Returns the NAL header of a parameter set for a key frame, and of a slice for another frame. Forwarders read the
    /// frame's type from it.
    pub(crate) fn header(self, key_frame: bool) -> &'static [u8] {
        match (self, key_frame) {
            (Self::H264, true) => &[0x67],
            (Self::H264, false) => &[0x41],
            (Self::H265, true) => &[0x40, 0x01],
            (Self::H265, false) => &[0x02, 0x01],
        }
    }

    /// Returns whether a NAL unit with this header begins a new picture sequence.
    pub(crate) fn begins_sequence(self, header: u8) -> bool {
        match self {
            Self::H264 => h264_type(header) == 5,
            Self::H265 => matches!(h265_type(header), 16..=21),
        }
    }

    /// Returns the class of a NAL unit that is not empty. The type alone does not decide: a unit whose form contradicts
    /// its class is refused, since the bytes may be of the other standard.
    pub(crate) fn class(self, unit: &[u8]) -> Class {
        let Some(&header) = unit.first() else { return Refused };
        let (table, number): (&[_], _) = match self {
            Self::H264 => (&H264, h264_type(header)),
            Self::H265 => (&H265, h265_type(header)),
        };
        let class = table.get(usize::from(number)).map_or(Refused, |&(_, class)| class);
        let fits_its_type = header & FORBIDDEN_ZERO_BIT == 0
            && match class {
                Separator => unit.get(self.header_len()..).is_some_and(is_separator),
                ParameterSet | Sei => self.is_no_picture_of_the_other(header, unit.get(1).copied(), class),
                Slice | Refused => true,
            };
        if fits_its_type { class } else { Refused }
    }

    /// Returns whether the NAL header of a parameter set or SEI is no picture header of the other standard.
    fn is_no_picture_of_the_other(self, header: u8, second: Option<u8>, class: Class) -> bool {
        match (self, header >> 5) {
            // In H.264 the nal_ref_idc of a parameter set is not 0, and the nal_ref_idc of an SEI is 0.
            (Self::H264, 0) => class == Sei,
            // With a nal_ref_idc of 1 the byte reads as a picture of H.265: up to 0x2F as a random access point. The
            // second byte of that picture has a TemporalId of 0 (low bits 1) or the base layer (below 8). No
            // profile_idc reads as either.
            (Self::H264, 1) => header < 0x30 && second.is_none_or(|second| second & 7 != 1 && second >= 8),
            (Self::H264, _) => true,
            // A parameter set in the base layer with a TemporalId of 0: no picture in a data partition of H.264 starts
            // with these bytes.
            (Self::H265, _) => class == Sei || header & 1 == 0 && second == Some(1),
        }
    }
}

/// Returns whether this is the payload of a delimiter (one byte), an end (no bytes) or filler data (ones).
fn is_separator(payload: &[u8]) -> bool {
    match payload {
        [] | [_] => true,
        [ones @ .., 0x80] => ones.iter().all(|&byte| byte == 0xFF),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_parameter_set_of_h264_that_reads_as_a_picture_of_h265_is_refused() {
        let cases: [(&[u8], bool); 10] = [
            (&[0x27], true),
            (&[0x27, 0x42], true),
            (&[0x27, 0x08], true),
            (&[0x27, 0x07], false),
            (&[0x27, 0x01], false),
            (&[0x27, 0x09], false),
            (&[0x2F, 0x42], true),
            (&[0x30, 0x42], false),
            (&[0x67, 0x09], true),
            (&[0x07, 0x42], false),
        ];
        for (unit, is_parameter_set) in cases {
            assert_eq!(matches!(Standard::H264.class(unit), ParameterSet), is_parameter_set, "{unit:x?}");
        }
    }

    #[test]
    fn sequences_begin_with_the_random_access_points_of_each_standard() {
        let begins = |standard: Standard| {
            (0..32)
                .filter(|number| {
                    let header = if standard == Standard::H264 { 0x60 | *number } else { number << 1 };
                    standard.begins_sequence(header)
                })
                .collect::<Vec<u8>>()
        };
        assert_eq!(begins(Standard::H264), [5]);
        assert_eq!(begins(Standard::H265), [16, 17, 18, 19, 20, 21]);
    }

    #[cfg(feature = "hazmat")]
    #[test]
    fn a_scan_names_the_standards() {
        assert_eq!([Standard::H264, Standard::H265].map(Standard::name), ["h264", "h265"]);
    }
}
