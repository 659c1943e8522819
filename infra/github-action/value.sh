#!/usr/bin/env bash
# Reads the token from the first of $SELECTORS that is a parameter, masks it, and hands it on. It is never an argument of a
# program, and is not printed before the runner receives the command to mask it.
set -euo pipefail
# A debug run with `bash -x` would print it.
set +x

parameter=
for selector in $SELECTORS; do
  if [[ $selector == /* ]]; then
    parameter="$selector"
    break
  fi
done
if [[ -z $parameter ]]; then
  echo '::error title=changeover::presenters find the token in no parameter, so there is no value to read'
  exit 1
fi

# The region by its option: the AWS CLI's version 1 reads another variable than everybody else.
value="$(
  aws ssm get-parameter --region "$AWS_REGION" --with-decryption --name "$parameter" --query Parameter.Value --output text
)"
if [[ ! $value =~ ^[[:graph:]]+$ ]]; then
  echo "::error title=changeover::the value of the parameter is no token, and is not handed on"
  exit 1
fi
echo "::add-mask::${value//%/%25}"
echo "value=$value" >> "$GITHUB_OUTPUT"
