// What a model writes to sum up a table: plain JavaScript, nothing to install.
const orders = [
  { customer: "a17", amount: 120, paid: true },
  { customer: "b02", amount: 80, paid: false },
  { customer: "a17", amount: 310, paid: true },
];
const totals = new Map();
for (const { customer, amount, paid } of orders) {
  if (paid) totals.set(customer, (totals.get(customer) ?? 0) + amount);
}
console.log(Object.fromEntries(totals));
