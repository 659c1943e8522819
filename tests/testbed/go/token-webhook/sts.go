package main

import (
	"bytes"
	"encoding/json"
	"encoding/xml"
	"fmt"
	"io"
	"net/http"
	"regexp"
	"strconv"
	"time"
)

// emulatedSTS sends requests for AWS STS to the emulator, and refuses all others.
type emulatedSTS struct {
	address string
}

var stsHost = regexp.MustCompile(`^sts\.([a-z0-9-]+\.)?amazonaws\.com$`)

// The transport behind emulatedSTS; never http.DefaultTransport, which is emulatedSTS itself.
var plain = &http.Transport{ResponseHeaderTimeout: 10 * time.Second}

// RoundTrip turns the emulator's XML into the JSON that STS sends to a client that accepts JSON.
func (sts emulatedSTS) RoundTrip(request *http.Request) (*http.Response, error) {
	if request.URL.Scheme != "https" || !stsHost.MatchString(request.URL.Host) {
		return nil, fmt.Errorf("%s is not an STS endpoint", request.URL.Host)
	}
	forwarded := request.Clone(request.Context())
	// The signature covers the Host header, so that stays as it was signed.
	forwarded.Host = request.URL.Host
	forwarded.URL.Scheme = "http"
	forwarded.URL.Host = sts.address
	response, err := plain.RoundTrip(forwarded)
	if err != nil || response.StatusCode != http.StatusOK {
		return response, err
	}
	defer response.Body.Close()
	body, err := io.ReadAll(io.LimitReader(response.Body, 1<<20))
	if err != nil {
		return nil, fmt.Errorf("read the answer of the STS emulator: %w", err)
	}
	if !json.Valid(body) {
		if body, err = jsonOfXML(body); err != nil {
			return nil, err
		}
	}
	response.Body = io.NopCloser(bytes.NewReader(body))
	response.ContentLength = int64(len(body))
	response.Header.Set("Content-Type", "application/json")
	response.Header.Set("Content-Length", strconv.Itoa(len(body)))
	return response, nil
}

// jsonOfXML renders a GetCallerIdentity answer as STS does for "Accept: application/json".
// https://docs.aws.amazon.com/STS/latest/APIReference/API_GetCallerIdentity.html
func jsonOfXML(body []byte) ([]byte, error) {
	var answer struct {
		Result struct {
			Arn     string `xml:"Arn"`
			UserID  string `xml:"UserId"`
			Account string `xml:"Account"`
		} `xml:"GetCallerIdentityResult"`
		Metadata struct {
			RequestID string `xml:"RequestId"`
		} `xml:"ResponseMetadata"`
	}
	if err := xml.Unmarshal(body, &answer); err != nil {
		return nil, fmt.Errorf("parse the answer of the STS emulator: %w", err)
	}
	return json.Marshal(map[string]any{
		"GetCallerIdentityResponse": map[string]any{
			"GetCallerIdentityResult": map[string]string{
				"Account": answer.Result.Account,
				"Arn":     answer.Result.Arn,
				"UserId":  answer.Result.UserID,
			},
			"ResponseMetadata": map[string]string{"RequestId": answer.Metadata.RequestID},
		},
	})
}
