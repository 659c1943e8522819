// Package register stands for the operator's pkg/generator/register: nothing in the testbed generates.
package register
