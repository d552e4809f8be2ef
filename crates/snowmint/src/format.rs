//! How an ID is written and read.

use std::fmt;
use std::str::FromStr;

use crate::Id;

/// A text form of an ID.
///
/// All but decimal have a fixed width, so that text sorts as the numbers do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Format {
    /// The number: `397833929219919914`.
    #[default]
    Decimal,
    /// 11 of `0-9A-Za-z`, which is their ASCII order: `0TO5BQA5sBm`.
    Base62,
    /// 13 of Crockford's alphabet, read in either case, with I and L for 1 and O for 0: `0B1B3V77C0M1A`.
    Base32,
    /// `0x` and 16 lower-case digits. The prefix keeps it apart from decimal when all digits are below 10.
    Hex,
}

const BASE62: Alphabet =
    Alphabet::new("base62", b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz", 11);
const BASE32: Alphabet = Alphabet::new("base32", b"0123456789ABCDEFGHJKMNPQRSTVWXYZ", 13)
    .with_lower_case()
    .with_alias(b"OoIiLl", b"001111");
const HEX: Alphabet = Alphabet::new("hex", b"0123456789abcdef", 16).with_alias(b"ABCDEF", b"abcdef");
const DECIMAL: Alphabet = Alphabet::new("decimal", b"0123456789", 19);

const HEX_PREFIX: &str = "0x";
const NOT_A_DIGIT: u8 = u8::MAX;

impl Format {
    /// Every form, in the order of their documentation.
    pub const ALL: [Self; 4] = [Self::Decimal, Self::Base62, Self::Base32, Self::Hex];

    /// Its name: `decimal`, `base62`, `base32` or `hex`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        self.alphabet().name
    }

    /// The ID in this form.
    #[must_use]
    pub fn text(self, id: Id) -> String {
        match self {
            Self::Decimal => id.to_string(),
            Self::Hex => format!("{HEX_PREFIX}{}", HEX.encode(id)),
            Self::Base62 | Self::Base32 => self.alphabet().encode(id),
        }
    }

    /// The ID that `text` is in this form: nothing before it, nothing behind it, and of full width.
    pub fn parse(self, text: &str) -> Result<Id, ParseError> {
        match self {
            Self::Hex => match text.strip_prefix(HEX_PREFIX).or_else(|| text.strip_prefix("0X")) {
                Some(digits) => HEX.decode(digits, HEX_PREFIX.len()),
                None => HEX.decode(text, 0),
            },
            Self::Decimal if text.len() > 1 && text.starts_with('0') => Err(ParseError::LeadingZero),
            Self::Decimal | Self::Base62 | Self::Base32 => self.alphabet().decode(text, 0),
        }
    }

    const fn alphabet(self) -> &'static Alphabet {
        match self {
            Self::Decimal => &DECIMAL,
            Self::Base62 => &BASE62,
            Self::Base32 => &BASE32,
            Self::Hex => &HEX,
        }
    }
}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl FromStr for Format {
    type Err = FormatError;

    fn from_str(name: &str) -> Result<Self, FormatError> {
        Self::ALL
            .into_iter()
            .find(|format| format.name() == name)
            .ok_or_else(|| FormatError { name: name.to_owned() })
    }
}

/// Reads an ID in whichever form it is.
///
/// The length decides: 11 characters are base62, 13 base32, and any other number is hex behind `0x` and
/// decimal without. Eleven or thirteen digits could be decimal too (an ID from the first hour of the
/// default layout), and are refused rather than guessed: say which with [`Format::parse`].
pub fn parse(text: &str) -> Result<Id, ParseError> {
    let digits_only = text.bytes().all(|byte| byte.is_ascii_digit());
    let by_width = [Format::Base62, Format::Base32].into_iter().find(|f| f.alphabet().width == text.len());
    match by_width {
        Some(other) if digits_only && !text.starts_with('0') => Err(ParseError::Ambiguous { other }),
        Some(format) => format.parse(text),
        None if text.starts_with("0x") || text.starts_with("0X") => Format::Hex.parse(text),
        None if digits_only => Format::Decimal.parse(text),
        None => match text.char_indices().find(|(_, character)| !character.is_ascii_alphanumeric()) {
            Some((at, character)) => Err(ParseError::Character { at, character, format: "ID" }),
            None => Err(ParseError::Unrecognized { length: text.len() }),
        },
    }
}

/// A positional notation.
struct Alphabet {
    name: &'static str,
    digits: &'static [u8],
    /// Digits of the largest ID.
    width: usize,
    /// The value of each ASCII character, or [`NOT_A_DIGIT`].
    values: [u8; 128],
}

impl Alphabet {
    const fn new(name: &'static str, digits: &'static [u8], width: usize) -> Self {
        let mut values = [NOT_A_DIGIT; 128];
        let mut value = 0;
        while value < digits.len() {
            #[expect(clippy::cast_possible_truncation, reason = "an alphabet has at most 62 digits")]
            let narrow = value as u8;
            values[digits[value] as usize] = narrow;
            value += 1;
        }
        Self { name, digits, width, values }
    }

    const fn with_alias(mut self, aliases: &[u8], digits: &[u8]) -> Self {
        let mut at = 0;
        while at < aliases.len() {
            self.values[aliases[at] as usize] = self.values[digits[at] as usize];
            at += 1;
        }
        self
    }

    const fn with_lower_case(mut self) -> Self {
        let mut at = 0;
        while at < self.digits.len() {
            self.values[self.digits[at].to_ascii_lowercase() as usize] =
                self.values[self.digits[at] as usize];
            at += 1;
        }
        self
    }

    fn encode(&self, id: Id) -> String {
        let base = self.digits.len() as u64;
        let mut text = vec![self.digits[0]; self.width];
        let mut rest = id.get();
        for place in text.iter_mut().rev() {
            #[expect(clippy::cast_possible_truncation, reason = "a remainder of the base")]
            let digit = (rest % base) as usize;
            *place = self.digits[digit];
            rest /= base;
        }
        text.into_iter().map(char::from).collect()
    }

    /// `offset` is how far into the caller's text `text` starts.
    fn decode(&self, text: &str, offset: usize) -> Result<Id, ParseError> {
        if text.is_empty() {
            return Err(ParseError::Empty);
        }
        let mut value: u64 = 0;
        let mut too_large = false;
        for (at, character) in text.char_indices() {
            let digit = self.values.get(character as usize).copied().unwrap_or(NOT_A_DIGIT);
            if digit == NOT_A_DIGIT {
                return Err(ParseError::Character { at: at + offset, character, format: self.name });
            }
            match value.checked_mul(self.digits.len() as u64).and_then(|v| v.checked_add(digit.into())) {
                Some(longer) => value = longer,
                None => too_large = true,
            }
        }
        if self.name != DECIMAL.name && text.len() != self.width {
            return Err(ParseError::Width { format: self.name, length: text.len(), wanted: self.width });
        }
        if too_large {
            return Err(ParseError::TooLarge);
        }
        Id::new(value).ok_or(ParseError::TooLarge)
    }
}

/// Why a text is no ID.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ParseError {
    /// There is no text.
    Empty,
    /// A character that is no digit of the form.
    Character {
        /// Where, in bytes from the start.
        at: usize,
        /// Which.
        character: char,
        /// The form's name.
        format: &'static str,
    },
    /// A fixed-width form of another width.
    Width {
        /// The form's name.
        format: &'static str,
        /// How many digits there are.
        length: usize,
        /// How many there should be.
        wanted: usize,
    },
    /// A decimal with a leading zero.
    LeadingZero,
    /// More than 2^63 - 1.
    TooLarge,
    /// Digits that could be decimal or another form.
    Ambiguous {
        /// The other form.
        other: Format,
    },
    /// No form has letters and this length.
    Unrecognized {
        /// How many characters there are.
        length: usize,
    },
}

impl fmt::Display for ParseError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Empty => write!(f, "an ID is wanted, this is empty"),
            Self::Character { at, character, format } => {
                write!(f, "character {} is {character:?}, which is no {format} digit", at + 1)
            }
            Self::Width { format, length, wanted } => {
                write!(f, "an ID in {format} has {wanted} digits, this has {length}")
            }
            Self::LeadingZero => write!(f, "character 1 is '0': a decimal ID has no leading zero"),
            Self::TooLarge => write!(f, "the ID is too large: the largest is 9223372036854775807 (2^63 - 1)"),
            Self::Ambiguous { other } => {
                write!(
                    f,
                    "{} digits could be decimal or {other}: say which form it is",
                    other.alphabet().width
                )
            }
            Self::Unrecognized { length } => write!(
                f,
                "{length} characters with letters are no ID: base62 has 11, base32 13, hex 16 behind 0x"
            ),
        }
    }
}

impl std::error::Error for ParseError {}

/// A name that is no [`Format`]'s.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FormatError {
    /// What was given.
    pub name: String,
}

impl fmt::Display for FormatError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} is no form of an ID: decimal, base62, base32 and hex are", self.name)
    }
}

impl std::error::Error for FormatError {}
