// Package register stands for the operator's pkg/provider/register, which registers each of its some forty providers: those that
// stores of the testbed name are enough, and spare more than a thousand packages.
package register

import (
	_ "github.com/external-secrets/external-secrets/pkg/provider/aws"
	_ "github.com/external-secrets/external-secrets/pkg/provider/fake"
)
