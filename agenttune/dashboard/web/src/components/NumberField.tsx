import { TextInput, type TextInputProps } from "@mantine/core";

interface Props extends Omit<TextInputProps, "value" | "onChange" | "type" | "min" | "max"> {
  value: number | "";
  onChange: (value: number | "") => void;
  min?: number;
  max?: number;
}

/** A number that is typed, within its limits; empty while nothing is. */
export function NumberField({ value, onChange, min = -Infinity, max = Infinity, ...rest }: Props) {
  return (
    <TextInput
      {...rest}
      type="number"
      inputMode="decimal"
      value={value}
      min={Number.isFinite(min) ? min : undefined}
      max={Number.isFinite(max) ? max : undefined}
      onChange={({ currentTarget: { valueAsNumber: typed } }) => onChange(Number.isNaN(typed) ? "" : Math.min(Math.max(typed, min), max))}
    />
  );
}
