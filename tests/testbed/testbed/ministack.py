"""ministack, whose translation of templates knows what their parameters are set to, as CloudFormation's does.

ministack has the SAM translator take every parameter for its default. The translation decides what there is to create (whether
CodeDeploy moves an alias, say), so a template would not be what was asked for.
"""

from contextvars import ContextVar
from typing import Any

from ministack.app import main
from ministack.services.cloudformation import changesets, engine, handlers
from samtranslator.translator import transform as translator

parameters: ContextVar[dict[str, str]] = ContextVar("parameters")
apply_transforms = engine._apply_transforms
translate = translator.transform


def apply_transforms_with_parameters(template: dict, provided: Any = None, previous: Any = None) -> dict:
    values = parameters.set(engine._transform_parameters(template, provided, previous))
    try:
        return apply_transforms(template, provided, previous)
    finally:
        parameters.reset(values)


def translate_with_parameters(template: dict, _: dict, policies: Any) -> dict:
    return translate(template, parameters.get(), policies)


if __name__ == "__main__":
    for module in (changesets, handlers):
        module._apply_transforms = apply_transforms_with_parameters
    translator.transform = translate_with_parameters
    main()
