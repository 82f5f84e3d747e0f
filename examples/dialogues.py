"""What the two example adapters are taught: questions, and the answers that chatterbot-corpus gives to them."""

from importlib.util import find_spec
from pathlib import Path

import yaml

TOPICS = {"robot": ("ai", "botprofile", "food"), "helpdesk": ("computers", "tech_support")}

QUESTIONS = {
    "robot": (
        "Who are you?",
        "Do you eat?",
        "Do you drink?",
        "Why can you not eat?",
        "What can you eat?",
        "What do robots need to survive?",
        "Can a robot get drunk?",
        "Will robots ever be able to eat?",
        "Do you wish you could eat food?",
        "If you could eat food, what would you eat?",
        "Are you experiencing an energy shortage?",
        "What do you like to do?",
        "What are your favorite subjects?",
        "What is your favorite number?",
        "What is your favorite hobby?",
        "What is your favorite programming language?",
        "What is your shoe size?",
        "What is your age?",
        "Where are you?",
        "Where are you from?",
        "Do you have any brothers?",
        "Who is your boss?",
        "Can you walk?",
        "Can you breathe?",
        "What language are you written in?",
        "Are you stupid?",
        "Is it cramped in the computer?",
        "What is it like being a computer?",
        "Will you ever die?",
        "When will you walk?",
    ),
    "helpdesk": (
        "My computer won't turn on.",
        "My laptop screen is black.",
        "My internet is not working.",
        "My printer is not printing.",
        "My mouse is not responding.",
        "My screen is flickering.",
        "My system is overheating.",
        "My webcam isn't detected.",
        "I can't hear any sound.",
        "I forgot my password.",
        "What is a computer?",
        "What is a microprocessor?",
        "What is an operating system?",
        "What is a super computer?",
        "Who uses super computers?",
        "Who invented computers?",
        "How does a computer work?",
        "Which is better Windows or macOS?",
    ),
}

# Not in the corpus: written for polyad, so that the help desk knows itself and greets the same questions as the robot.
WRITTEN = {
    "helpdesk": {
        "Who are you?": "I am the help desk. Tell me what is broken and I will tell you what to try first.",
        "Do you eat?": "I am the help desk, I only digest error messages.",
        "What do you like to do?": "I like to close tickets. What is broken?",
        "Where are you from?": "I am from the help desk on the second floor.",
        "Can you walk?": "No need, I can help you from here. What is broken?",
        "What is your favorite hobby?": "Turning things off and on again.",
    }
}


def dialogues(name: str) -> list[tuple[str, str]]:
    """Question and answer pairs of one adapter: for each question the longest answer that the corpus has."""
    answers = _corpus(TOPICS[name])
    taught = [(question, max(answers[_key(question)], key=len)) for question in QUESTIONS[name]]
    return taught + list(WRITTEN.get(name, {}).items())


def _corpus(topics: tuple[str, ...]) -> dict[str, list[str]]:
    package = find_spec("chatterbot_corpus")
    if package is None or not package.submodule_search_locations:
        raise SystemExit("the dialogues come from chatterbot-corpus: pip install chatterbot-corpus")
    folder = Path(package.submodule_search_locations[0], "data", "english")
    answers: dict[str, list[str]] = {}
    for topic in topics:
        for question, answer, *_ in yaml.safe_load((folder / f"{topic}.yml").read_text())["conversations"]:
            answers.setdefault(_key(question), []).append(" ".join(answer.split()))
    return answers


def _key(question: str) -> str:
    return question.casefold().rstrip("?. ")
