"""Prompts of the tasks and of the fine-tuned checkpoints, and what is refused."""

import pytest

from heliodor.errors import PromptError
from heliodor.see import prompt


def test_prompts_of_the_pretraining_tasks() -> None:
    assert prompt.caption() == "caption en"
    assert prompt.caption("zh") == "caption zh"
    assert prompt.short_caption("fr") == "cap fr"
    assert prompt.describe("de") == "describe de"
    assert prompt.read() == "ocr"
    assert prompt.ask("Where is the cow standing?") == "answer en Where is the cow standing?"
    assert prompt.ask("¿qué es?", "es") == "answer es ¿qué es?"
    assert prompt.question("on the beach", "ja") == "question ja on the beach"


def test_labels_are_joined_by_a_spaced_semicolon() -> None:
    assert prompt.detect("bee") == "detect bee"
    assert prompt.detect("bee ; flower") == "detect bee ; flower"
    assert prompt.detect("bee;flower") == "detect bee ; flower"
    assert prompt.detect(["bee", " dog's bowl "]) == "detect bee ; dog's bowl"
    assert prompt.segment(("t-shirt, red", "猫")) == "segment t-shirt, red ; 猫"
    assert prompt.segment(iter(["a"])) == "segment a"
    assert prompt.split_labels("a ; b") == ("a", "b")


def test_a_region_is_written_top_left_bottom_right_in_thousandths_of_1023() -> None:
    found = prompt.caption_region((0.0, 0.25, 1.0, 0.5))
    assert found == "caption <loc0256><loc0000><loc0512><loc1023>"


def test_the_35_languages() -> None:
    codes = (
        "ar bn cs da de el en es fa fi fil fr he hi hr hu id it ja ko mi nl no pl pt ro ru sv sw "
        "te th tr uk vi zh"
    )
    assert " ".join(prompt.LANGUAGES) == codes
    assert [prompt.check_language(code) for code in codes.split()] == codes.split()


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        ("english", "en"),
        ("German", "de"),
        ("EN", "en"),
        ("jp", "ja"),
        ("zh-CN", "zh"),
        ("pt_BR", "pt"),
        ("fra", "fr"),
        ("spansh", "es"),
        ("cn", "zh"),
    ],
)
def test_an_unknown_language_is_refused_with_the_nearest(given: str, meant: str) -> None:
    with pytest.raises(PromptError, match=f"did you mean '{meant}'"):
        prompt.caption(given)


def test_a_language_near_to_none_is_refused_with_the_list() -> None:
    with pytest.raises(PromptError, match="'xqq#' is unknown: Codes are ar bn cs"):
        prompt.ask("what?", "xqq#")


@pytest.mark.parametrize("build", [prompt.detect, prompt.segment])
@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ([], "no label was given"),
        ("", "empty label"),
        ("  ", "empty label"),
        ("a ; ", "empty label in 'a ; '"),
        (";", "empty label"),
        (["a", ""], "empty label"),
        (["a ; b"], "contains ';', which parts labels"),
        ("a\nb", "line break inside, which ends a prompt"),
        (["a", "b\r\nc"], "line break inside"),
    ],
)
def test_labels_that_would_mean_something_else_are_refused(build, labels, message) -> None:
    with pytest.raises(PromptError, match=message):
        build(labels)


@pytest.mark.parametrize("build", [prompt.ask, prompt.question])
def test_questions_and_answers_need_words_on_one_line(build) -> None:
    with pytest.raises(PromptError, match="is empty"):
        build(" \n ")
    with pytest.raises(PromptError, match="line break inside"):
        build("what is\nthis?")
    assert build(" what? \n").endswith(" en what?")


@pytest.mark.parametrize(
    "box",
    [(0, 0, 1.5, 1), (-0.1, 0, 1, 1), (0.5, 0, 0.5, 1), (0, 0.9, 1, 0.1), (0, 0, 1, float("nan"))],
)
def test_a_region_outside_the_picture_is_refused(box) -> None:
    with pytest.raises(PromptError, match="is no part of the picture"):
        prompt.caption_region(box)


@pytest.mark.parametrize(
    ("task", "fields", "expected"),
    [
        ("cococap", {}, "caption en"),
        ("widgetcap", {}, "caption en"),
        ("docci", {}, "caption en"),
        ("coco35l", {"lang": "sw"}, "caption sw"),
        ("vqav2", {"question": "what is it?"}, "answer en what is it?"),
        ("rsvqa-hr", {"question": "is it rural?"}, "answer en is it rural?"),
        ("pope", {"question": "Is there a dog?"}, "answer en Is there a dog?"),
        ("docvqa", {"question": "What is the date?"}, "What is the date?"),
        ("chartqa", {"question": "Which bar is highest?"}, "Which bar is highest?"),
        ("nlvr2", {"sentence": "Both are red."}, "answer en Both are red."),
        (
            "aokvqa-mc",
            {"question": "What is it?", "options": ["cat", "dog", "cow", "pig"]},
            "answer en  What is it? choose from: cat \t dog \t cow \t pig",
        ),
        (
            "ai2d",
            {"question": "Which?", "options": ["a", "b"]},
            "answer en  Which? choose from: a \t b",
        ),
        (
            "science_qa",
            {"question": "Which?", "context": "", "options": ["iron", "wood"]},
            "Question: Which?\nContext: \nOptions: (A) iron, (B) wood\nAnswer:",
        ),
        ("refcoco_seg", {"phrase": "the man on the left"}, "the man on the left"),
    ],
)
def test_prompts_of_finetuned_checkpoints(
    task: str, fields: dict[str, object], expected: str
) -> None:
    assert prompt.finetuned(task, **fields) == expected


def test_every_finetuned_task_builds_from_its_fields() -> None:
    example = {
        "question": "q?",
        "sentence": "s.",
        "phrase": "p",
        "context": "c",
        "lang": "en",
        "options": ["a", "b"],
    }
    assert len(prompt.FINETUNED) == 38
    for name, task in prompt.FINETUNED.items():
        assert task.name == name
        built = prompt.finetuned(name, **{field: example[field] for field in task.fields})
        assert built.strip() == built
        assert built


def test_two_pictures_belong_to_nlvr2_alone_and_its_relative() -> None:
    assert [t.name for t in prompt.FINETUNED.values() if t.images != 1] == ["nlvr2", "marvl"]


def test_the_tasks_evaluated_with_antialiasing() -> None:
    found = {task.name for task in prompt.FINETUNED.values() if task.antialias}
    assert found == {
        "widgetcap", "vqav2", "okvqa", "aokvqa_mc", "aokvqa_da", "chartqa", "tallyqa",
        "countbenchqa", "ocrvqa", "textvqa", "docvqa", "infovqa", "stvqa",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("task", "fields", "message"),
    [
        ("docvqua", {"question": "q"}, "no fine-tuned task 'docvqua': did you mean 'docvqa'"),
        ("vqav2", {}, "vqav2 takes question, but none came"),
        ("cococap", {"question": "q"}, "cococap takes no fields, but question came"),
        ("docvqa", {"question": " "}, "the question is empty"),
        ("refcoco_seg", {"phrase": "a\nb"}, "line break inside"),
        ("aokvqa_mc", {"question": "q", "options": []}, "one or more texts without a tab"),
        ("aokvqa_mc", {"question": "q", "options": ["a\tb"]}, "without a tab"),
        ("science_qa", {"question": "q", "context": "", "options": []}, "1 to 26, not 0"),
        ("coco35l", {"lang": "xx"}, "is unknown"),
    ],
)
def test_examples_that_do_not_fit_their_task_are_refused(
    task: str, fields: dict[str, object], message: str
) -> None:
    with pytest.raises(PromptError, match=message):
        prompt.finetuned(task, **fields)


@pytest.mark.parametrize(
    ("checkpoint", "task"),
    [
        ("google/paligemma-3b-ft-docvqa-448", "docvqa"),
        ("google/paligemma-3b-ft-aokvqa-mc-224", "aokvqa_mc"),
        ("google/paligemma-3b-ft-refcoco-seg-896-jax", "refcoco_seg"),
        ("google/paligemma2-10b-ft-docci-448", "docci"),
        ("folder/ft_science_qa_448.npz", "science_qa"),
        ("google/paligemma-3b-mix-224", None),
        ("google/paligemma-3b-pt-448", None),
        ("google/paligemma-3b-ft-unheard-448", None),
    ],
)
def test_the_task_is_told_by_the_name_of_a_checkpoint(checkpoint: str, task: str | None) -> None:
    found = prompt.task_of(checkpoint)
    assert (found and found.name) == task
