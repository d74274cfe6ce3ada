// Written by: emit types graph.router --lang go

package nodes

// OrdersMessage is the message of the node "orders".
type OrdersMessage struct {
	Text any `json:"text"`
}

// OrdersResult is a result of the node "orders".
type OrdersResult struct {
	Sku   string `json:"sku"`
	Cents int64  `json:"cents"`
	Count int64  `json:"count"`
}

// TotalMessage is the message of the node "total".
type TotalMessage struct {
	Sku   string `json:"sku"`
	Cents int64  `json:"cents"`
	Count int64  `json:"count"`
}

// TotalResult is a result of the node "total".
type TotalResult struct {
	Sku   string `json:"sku"`
	Total int64  `json:"total"`
}

// ReceiptMessage is the message of the node "receipt".
type ReceiptMessage struct {
	Sku   string `json:"sku"`
	Total int64  `json:"total"`
}

// ReceiptResult is a result of the node "receipt".
type ReceiptResult struct {
	Text string `json:"text"`
}

// ShowMessage is the message of the node "show".
type ShowMessage struct {
	Text string `json:"text"`
}
