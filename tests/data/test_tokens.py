"""Text to words and back, in any script; English as ever."""

import re
import unicodedata

import pytest

from xpcap.data import detokenize, tokenize
from xpcap.data.vocabulary import gaps, has_word


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("A dog's 2nd BALL -- naïve!\n", "a dog s 2nd ball naïve"),
        ("Ein Mädchen fährt auf der STRAẞE, groß.", "ein mädchen fährt auf der straße groß"),
        ("L’été : une fille à côté d'un œuf", "l été une fille à côté d un œuf"),
        ("Две собаки бегут по снегу.", "две собаки бегут по снегу"),
        ("Ο ΣΚΎΛΟΣ τρέχει", "ο σκύλος τρέχει"),
        ("İki köpek", "iki köpek"),
        ("كَلْبٌ يركضُ، ٣ كلاب", "كَلْبٌ يركضُ ٣ كلاب"),
        ("خانه‌ها می‌روند", "خانه‌ها می‌روند"),
        ("כֶּלֶב רָץ", "כֶּלֶב רָץ"),
        ("एक लड़की दौड़ रही है।", "एक लड़की दौड़ रही है"),
        ("강아지가 뛴다", "강아지가 뛴다"),
        ("一只狗，在草地上跑。", "一 只 狗 在 草 地 上 跑"),
        ("２匹の犬がボール々", "２ 匹 の 犬 が ボ ー ル 々"),
        ("二〇二〇年 iPhone手机", "二 〇 二 〇 年 iphone 手 机"),
        ("เด็กน้ำ", "เ ด็ ก น้ำ"),
        ("ក្មេងស្រី", "ក្មេ ង ស្រី"),
        ("အင်္ဂလိပ်", "အ င်္ဂ လိ ပ်"),
        ("co\u00adoperate na\ufe0fve a_b a\u200bb", "cooperate nave a b a b"),
        ("❤️ 👩‍👩‍👧 🐕", ""),
        ("1️⃣ ½ x² …", "1 x"),
    ],
)
def test_words_are_runs_of_letters_of_any_script_and_characters_of_scripts_without_spaces(
    text: str, words: str
) -> None:
    expected = unicodedata.normalize("NFC", words).split(" ") if words else []
    assert tokenize(text) == tokenize(unicodedata.normalize("NFD", text)) == expected
    assert has_word(text) == bool(words)
    assert tokenize(detokenize(expected)) == expected


def test_ascii_is_cut_alike_by_the_fast_path_and_by_the_general_one() -> None:
    text = "".join(map(chr, range(128))) + " It's a DOG_2, co-op\x1b[0m"
    words = re.findall("[a-z0-9]+", text.lower())
    assert tokenize(text) == words
    assert tokenize(text + " é") == [*words, "é"]


def test_words_make_a_line_with_spaces_where_the_script_has_them() -> None:
    assert detokenize(["a", "dog", "<UNK>"]) == "a dog <UNK>"
    assert detokenize("été à la mer".split()) == "été à la mer"
    assert detokenize([*"一只狗在跑"]) == "一只狗在跑"
    assert detokenize(["一", "<UNK>", "狗", "2", "只"]) == "一 <UNK> 狗 2 只"
    assert detokenize(tokenize("เด็กผู้หญิงกำลังวิ่ง")) == "เด็กผู้หญิงกำลังวิ่ง"
    assert detokenize(["小狗", "跑"]) == "小狗跑"  # of a vocabulary that was cut otherwise
    assert detokenize(["ก", "ำ"]) == "ก ำ"  # one word without the space
    assert (detokenize([]), gaps([]), gaps(["a"]), gaps(["a", "狗", "跑"])) == (
        "",
        [],
        [""],
        [" ", "", ""],
    )
