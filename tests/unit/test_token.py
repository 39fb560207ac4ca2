"""A token's text is a client's input: what it says comes back, and whatever else is refused within bounds."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ensue import Key, Token, TokenInvalid, Trust, UsageError
from ensue.codec import POSITION_MAX
from ensue.token import PARTS_MAX, TEXT_BYTES_MAX, Part

names = st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=1, max_size=30)
parts = st.builds(Part, names, names, st.integers(0, 2**31 - 1), st.integers(1, POSITION_MAX))
tokens = st.lists(parts, max_size=8).map(Token.of)

ORDERS = Key("orders", "2026", "s" * 40)
SIGNS = Trust(signed=True, keys=(ORDERS,))


def furthest(*several: Token) -> dict[tuple[str, str, int], int]:
    """The model: of each place the greatest position."""
    found: dict[tuple[str, str, int], int] = {}
    for token in several:
        for source, topic, partition, position in token.parts:
            found[source, topic, partition] = max(found.get((source, topic, partition), 0), position)
    return found


@given(tokens)
def test_what_a_token_says_comes_back(token: Token) -> None:
    assert Token.parse(str(token)) == token
    assert bool(token) == bool(token.parts)


@given(tokens, tokens, tokens)
def test_tokens_are_merged_by_the_greater_position(one: Token, two: Token, three: Token) -> None:
    assert furthest(one | two) == furthest(one, two)
    assert one | two == two | one
    assert (one | two) | three == one | (two | three)
    assert one | one == one
    assert one | Token() == one


@given(st.lists(tokens, max_size=4))
def test_the_texts_of_several_answers_are_one_token(several: list[Token]) -> None:
    text = " , ".join(map(str, several))
    assert furthest(Token.parse(text)) == furthest(*several)


@given(st.text(max_size=200) | st.binary(max_size=150).map(lambda raw: "1." + raw.hex()))
def test_what_is_no_token_is_an_error_of_its_own(text: str) -> None:
    try:
        token = Token.parse(text)
    except TokenInvalid:
        return
    assert not token  # commas and blanks say nothing


@given(tokens.filter(bool), st.data())
def test_a_text_that_was_changed_is_refused_or_says_something_else_that_is_whole(
    token: Token, data: st.DataObject
) -> None:
    text = str(token)
    at = data.draw(st.integers(0, len(text) - 1))
    try:
        changed = Token.parse(text[:at] + data.draw(st.sampled_from("Aa09-_.=,\n")) + text[at + 1 :])
    except TokenInvalid:
        return
    assert all(part.position >= 1 and part.source for part in changed.parts)


def test_a_token_has_at_most_so_many_parts_and_bytes() -> None:
    many = [Part("orders/1", "orders", number, 1) for number in range(PARTS_MAX + 1)]
    assert len(Token.parse(str(Token.of(many[:-1]))).parts) == PARTS_MAX
    with pytest.raises(UsageError, match="65 places, expected at most 64"):
        Token.of(many)
    text = f"{Token.of(many[:40])},{Token.of(many[25:])}"
    with pytest.raises(TokenInvalid, match="65 parts, expected at most 64"):
        Token.parse(text)
    with pytest.raises(TokenInvalid, match=f"expected at most {TEXT_BYTES_MAX}"):
        Token.parse("1." + "A" * TEXT_BYTES_MAX)
    long = Token.of(Part("s" * 200, "t" * 200, number, 1) for number in range(PARTS_MAX))
    with pytest.raises(UsageError, match="names are long"):
        str(long)


def test_a_part_out_of_bounds_is_refused() -> None:
    for part in (("orders/1", "orders", -1, 5), ("orders/1", "orders", 0, 0), ("", "orders", 0, 5)):
        with pytest.raises(TokenInvalid, match="damaged"):
            Token.parse(str(Token((Part(*part),))))


def signed(token: Token, key: Key = ORDERS) -> Token:
    return token.signed(key.service, Trust(keys=(key,)).signer(key.service))


@given(tokens.filter(bool))
def test_a_signed_token_is_believed_by_who_has_the_key(token: Token) -> None:
    assert Token.parse(str(signed(token)), SIGNS) == token
    again = Token.parse(str(Token.parse(str(signed(token)), SIGNS)), SIGNS)  # it is handed on with its signature
    assert again == token


def test_who_wants_signatures_takes_no_token_without_the_right_one() -> None:
    token = Token.of([Part("orders/1", "orders", 0, 5)])
    further = Token.of([Part("orders/1", "orders", 0, 500)])
    forged = Token(further.parts, signed(token).signature)
    for text, why in (
        (str(token), "it is not signed"),
        (str(forged), "its signature is not that of key orders/2026"),
        (str(signed(token, Key("orders", "2027", "t" * 40))), "key orders/2027, which is not known here"),
        (str(signed(token, Key("orders", "2026", "t" * 40))), "its signature is not that of key orders/2026"),
        (f"{signed(token)},{further}", "it is not signed"),
        (str(signed(token) | further), "it is not signed"),
    ):
        with pytest.raises(TokenInvalid, match=why):
            Token.parse(text, SIGNS)
    assert Token.parse(f"{signed(token)},{signed(further)}", SIGNS) == further


def test_where_signatures_are_not_asked_for_a_wrong_one_is_refused_all_the_same() -> None:
    token = Token.of([Part("orders/1", "orders", 0, 5)])
    knows = Trust(keys=(ORDERS,))
    assert Token.parse(str(token), knows) == token
    with pytest.raises(TokenInvalid, match="is not that of key"):
        Token.parse(str(signed(token, Key("orders", "2026", "t" * 40))), knows)
    assert Token.parse(str(signed(token, Key("orders", "2027", "t" * 40))), Trust()) == token
