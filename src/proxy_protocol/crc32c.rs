//! The checksum of a header: CRC-32C (RFC 3720, appendix B.4).

/// The length of a checksum.
pub(super) const CRC_LENGTH: usize = 4;

/// The polynomial, lowest bit first.
const POLYNOMIAL: u32 = 0x82f6_3b78;

/// The checksum of `bytes`, in which the checksum itself, at `at`, counts as zeros.
pub(super) fn crc32c(bytes: &[u8], at: usize) -> u32 {
    let mut remainder = u32::MAX;
    for (index, byte) in bytes.iter().enumerate() {
        remainder ^= if (at..at + CRC_LENGTH).contains(&index) { 0 } else { u32::from(*byte) };
        for _ in 0..8 {
            remainder = (remainder >> 1) ^ (POLYNOMIAL * (remainder & 1));
        }
    }
    !remainder
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_checksum_is_that_of_the_specification() {
        assert_eq!(crc32c(b"123456789", usize::MAX - CRC_LENGTH), 0xe306_9283);
        assert_eq!(crc32c(&[0; 32], 0), 0x8a91_36aa);
        assert_eq!(crc32c(&[0xff; 32], usize::MAX - CRC_LENGTH), 0x62a8_ab43);
    }
}
